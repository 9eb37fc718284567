"""At the command line a hostile file is one message and exit code 2, and leaves nothing behind."""

import builtins

import numpy as np
import pytest

from jaxrecon.cli import main
from jaxrecon.pipelines.free_models import CONVERTERS
from tests.attacks.arrays import MATS, npy, npz
from tests.attacks.containers import CHECKPOINTS
from tests.attacks.pickles import PICKLES


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield f"touch {path}"
    assert not path.exists()


def refused(capsys, source, *arguments):
    """Run a command that must fail on `source`."""
    out = source.parent / "out"
    code = main.main([arguments[0], str(source), *arguments[1:], "--out", str(out / "x.npz")])
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and source.name in captured.err
    assert "Traceback" not in captured.err and len(captured.err) < 1500
    assert not out.exists() or not list(out.iterdir())


SAMPLE = ["reduce, protocol 2", "eval", "STACK_GLOBAL", "a billion laughs", "an array of 8 EiB"]


@pytest.mark.parametrize("which", [*SAMPLE, "nothing"])
@pytest.mark.parametrize("kind", ["smpl", "smplh", "smplx", "flame"])
def test_bodies(which, kind, canary, tmp_path, capsys):
    source = tmp_path / "model.pkl"
    source.write_bytes(PICKLES[which](canary))
    refused(capsys, source, "import-model", "--kind", kind)


def test_bodies_in_arrays(canary, tmp_path, capsys):
    source = tmp_path / "model.npz"
    attack = PICKLES["os.system"](canary)
    source.write_bytes(npz(("v_template.npy", npy((1,), "|O", attack))))
    for kind in ("smpl", "smplx", "flame", "facescape"):
        refused(capsys, source, "import-model", "--kind", kind)


@pytest.mark.parametrize("which", ["a function handle", "a zlib bomb", "version 7.3", "a cut file"])
def test_faces(which, tmp_path, capsys):
    source = tmp_path / "BFM_model_front.mat"
    source.write_bytes(MATS[which])
    refused(capsys, source, "import-model", "--kind", "bfm")


@pytest.mark.parametrize(
    "which",
    ["hooks that run", "a deflated storage", "a storage beyond the folder", "a zip cut in half"],
)
@pytest.mark.parametrize("network", ["idr", "deep3d", "spin", "graphcmr", "bisenet"])
def test_checkpoints(which, network, canary, tmp_path, capsys):
    source = tmp_path / "weights.pth"
    source.write_bytes(CHECKPOINTS[which](canary))
    refused(capsys, source, "import-checkpoint", "--network", network)
    source.write_bytes(PICKLES["eval"](canary))
    refused(capsys, source, "import-checkpoint", "--network", network)


def test_every_kind_refuses_what_is_nothing(tmp_path, capsys):
    source = tmp_path / "nothing"
    source.write_bytes(b"")
    for kind in CONVERTERS:
        refused(capsys, source, "import-model", "--kind", kind)


def _without_torch_and_chumpy(monkeypatch):
    original = builtins.__import__

    def guarded(name, *arguments, **options):
        if name.partition(".")[0] in ("torch", "chumpy", "pickle5"):
            raise AssertionError(f"{name} was imported")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", guarded)


def test_models_without_torch_and_chumpy(shared, tmp_path, capsys, monkeypatch):
    """The synthetic body and face of the shared folder, end to end."""
    _without_torch_and_chumpy(monkeypatch)
    for name, kind, count in (
        ("smpl_synthetic_chumpy_layout.pkl", "smpl", 30),
        ("tiny_BFM_model_front.mat", "bfm", 225),
    ):
        out = tmp_path / f"{kind}.npz"
        source = shared / "parity" / name
        assert main.main(["import-model", str(source), "--kind", kind, "--out", str(out)]) == 0
        assert f"{count} vertices" in capsys.readouterr().out
        with np.load(out, allow_pickle=False) as archive:
            assert len(archive["v_template" if kind == "smpl" else "v_mean"]) == count
            assert "research" in str(archive["licence"])


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_checkpoint_without_torch(shared, container, tmp_path, capsys, monkeypatch):
    import hashlib

    from jaxrecon.interop.weights import load_weights

    _without_torch_and_chumpy(monkeypatch)
    source = shared / "parity" / f"torch_ckpt_spin_small_{container}.pt"
    out = tmp_path / "spin"
    command = ["import-checkpoint", str(source), "--network", "spin", "--out", str(out)]
    assert main.main(command) == 0
    told = capsys.readouterr().out
    assert "spin head: 12,829 parameters" in told and "left out, as no weights: batch_idx" in told
    tree, header = load_weights(out)
    with np.load(shared / "parity" / "spin_hmr_head_small.npz") as recorded:
        fc1 = recorded["state/fc1.weight"]
        np.testing.assert_array_equal(tree["params"]["head"]["fc1"]["kernel"], fc1.T)
    assert header["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert header["source"]["authors"].startswith("github.com/nkolot/SPIN")
    assert "BSD-3-Clause" in header["licence"]
