"""Every Python block of the how-tos is run, in order, one namespace a page, and its results are
looked at.

A page runs in an empty folder. Placeholders: `idr.npz` of from-pytorch is a recorded network of
random weights (tests/parity), `anny_body.npz` and `spin` of models.md a body and a network of
random numbers. Blocks of other languages are not run, nor are the rest of models.md, parallel.md
and cameras.md, whose examples need files or machines that are not here.
"""

import contextlib
import io
import json
import pathlib
import re

import jax
import numpy as np
import pytest

from jaxrecon.cli import main
from tests.models import torch_states
from tests.models.bodies import tiny_body

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "how-to"
PARITY = ROOT / "tests" / "parity" / "idr_implicit_small.npz"
RUN = (
    "your-photos",
    "detections",
    "your-loss",
    "your-network",
    "sweeps",
    "camera-gradient",
    "uncertainty",
    "from-pytorch",
)


def blocks(page: str) -> list[tuple[int, str]]:
    """(line, code) of a page's Python blocks."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in found]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a page: (its names, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def execute(page: str) -> tuple[dict, str]:
        names, out = {"__name__": page}, io.StringIO()
        for line, code in blocks(page):
            numbered = "\n" * line + code  # a traceback names the page's own line
            with contextlib.redirect_stdout(out):
                exec(compile(numbered, f"docs/how-to/{page}.md", "exec"), names)  # noqa: S102
        return names, out.getvalue()

    return execute


def test_the_index_lists_every_page():
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    pages = {p.name for p in PAGES.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == pages
    assert {f"{page}.md" for page in RUN} <= pages


@pytest.mark.parametrize("page", RUN)
def test_pages_are_short_and_have_code(page):
    lines = (PAGES / f"{page}.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 180 and blocks(page)


def test_your_photos(run, capsys):
    names, out = run("your-photos")
    views, demo = names["views"], names["demo"]
    np.testing.assert_array_equal(views.mask > 0.5, demo.mask > 0.5)
    np.testing.assert_allclose(views.images, demo.images, atol=1 / 255)
    np.testing.assert_allclose(views.landmarks2d, demo.landmarks2d, atol=1e-4)
    assert views.valid[0].all() and not views.valid[1, 200, 30] and views.valid[1, 100, 100]
    assert list(views.expression) == [0, 0, 1] and "estimate_focal" in out
    detected = names["detected"]
    np.testing.assert_array_equal(detected.landmarks2d, demo.landmarks2d)
    np.testing.assert_array_equal(detected.mask, demo.mask)
    assert set(np.unique(detected.landmark_weights)) == {np.float32(0.9)}
    assert "found by my tool: view_0.png (mean confidence 0.90)" in out
    assert main.main(["doctor", "me", "--out", "pictures"]) == 0
    assert len(list(pathlib.Path("pictures").glob("doctor_view_*.png"))) == 3
    assert json.loads(pathlib.Path("me/landmarks.json").read_text())["valid"] == [True] * 68


def test_detections(run):
    names, out = run("detections")
    for face in names["same"]:
        np.testing.assert_allclose(face.landmarks, names["points"], atol=1e-3)
    np.testing.assert_allclose(names["again"].face.landmarks, names["points"], atol=1e-3)
    assert "['background', 'skin', 'hair']" in out and "'eye_g': 'clothes'" in out
    assert set(names["whole"].sources) == {"landmarks", "parsing", "mask"}
    assert names["whole"].mask is names["found"].mask
    shares = re.findall(r"^surely [a-z ]+: ([\d.]+)$", out, flags=re.MULTILINE)
    assert len(shares) == 2 and min(map(float, shares)) > 0.98


def test_the_mirror_of_landmarks_is_one(run):
    """The index of your-loss.md: its own inverse, right side to left."""
    code = next(c for _, c in blocks("your-loss") if "MIRROR" in c)
    lines = code[code.index("MIRROR") : code.index("def symmetry")]
    names: dict = {}
    exec(lines, names)  # noqa: S102
    mirror = np.array(names["MIRROR"])
    assert np.array_equal(mirror[mirror], np.arange(68))
    middle = [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]
    assert [i for i in range(68) if mirror[i] == i] == middle
    assert mirror[0] == 16 and mirror[36] == 45 and mirror[48] == 54 and mirror[41] == 46


def test_your_loss(run):
    names, _ = run("your-loss")
    history = {k: np.asarray(v) for k, v in names["result"].history.items()}
    weights = names["hyper"].weights
    weighted = sum(weights[name] * history[name] for name in names["mine"])
    np.testing.assert_allclose(weighted, history["total"], rtol=1e-4)
    assert history["symmetry"][0] > 0 and history["rgb"].shape == (4,)
    assert abs(names["slope"] / names["difference"] - 1) < 0.02
    assert not np.array_equal(names["other"].z_id, names["result"].z_id)


def test_your_network(run):
    names, _ = run("your-network")
    assert float(names["values"][-1]) < 0.01
    assert abs(150 * (0.5 + 0.1 * float(names["result"].z_id[0])) - 84) < 2
    radii = 150 * np.linalg.norm(names["mesh"].vertices, axis=1)
    assert abs(radii.mean() - 84) < 2 and radii.std() < 1


def test_sweeps(run):
    names, out = run("sweeps")
    assert names["codes"].shape == (4, 100)
    # subjects: four times the same, with one key
    np.testing.assert_allclose(names["codes"][0], names["codes"][3], atol=1e-4)
    rows = re.findall(r"^0\.0\d+ +[\d.e-]+ +([\d.]+) +([\d.]+)$", out, flags=re.MULTILINE)
    assert len(rows) == 4 and len({row for row in rows}) > 1
    spread = float(re.search(r"rgb over keys [\d.]+ \+- ([\d.]+)", out).group(1))  # type: ignore
    assert spread > 0
    assert names["batched"]._cache_size() == 1


def test_camera_gradient(run):
    names, _ = run("camera-gradient")
    theorem, refits = np.asarray(names["jacobian"]), np.asarray(names["differences"])
    for found in (theorem, np.asarray(names["through"])):
        error = np.abs(found - refits).max(0) / np.abs(refits).max(0)
        assert np.all(error[[0, 1, 2, 3, 4, 6]] < 0.05) and error[5] < 0.3
    # by reverse mode the same
    arguments = (names["views"], names["prior"].space, names["optimum"], names["still"])
    row = jax.grad(lambda c: names["by_theorem"](*arguments[:3], c)[3])(arguments[3])
    np.testing.assert_allclose(row, theorem[3], rtol=2e-3, atol=1e-4)
    assert np.isfinite(names["per_degree"]).all() and np.abs(names["per_degree"]).max() < 50


def test_uncertainty(run):
    names, _ = run("uncertainty")
    one, two, three = names["by_views"]
    assert one > two > three > 0.5
    assert names["world"].mean() < names["shape"].mean() < 4
    np.testing.assert_allclose(names["spread"], names["shape"], rtol=0.15)
    sd, front, back = (np.asarray(names[n]) for n in ("sd", "front", "back"))
    assert front.sum() > 5 and back.sum() > 5 and sd[back].mean() > 2 * sd[front].mean() > 0.5
    from jaxrecon.fitting.uncertainty import landmark_deviation

    space = names["space"]
    assert landmark_deviation(names["surer"], space)[0].mean() < names["shape"].mean()
    assert landmark_deviation(names["unsure"], space)[0].mean() > names["shape"].mean()


def test_from_pytorch(run, tmp_path):
    recorded, prefix = np.load(PARITY), "small_pe6_skip/sd/"
    state = {k.removeprefix(prefix): recorded[k] for k in recorded.files if k.startswith(prefix)}
    np.savez(tmp_path / "idr.npz", **state)
    names, _ = run("from-pytorch")
    assert main.main(["import-checkpoint", "idr.npz", "--network", "idr", "--out", "idr"]) == 0
    assert (tmp_path / "idr.safetensors").exists() and (tmp_path / "idr.json").exists()
    hit = names["trace"].hit
    assert 0 < hit.mean() < 1
    assert np.abs(np.where(hit, names["field"](names["trace"].points), 0)).max() < 1e-3
    assert float(names["along"]) == pytest.approx(-1.0, abs=1e-4)
    assert len(names["mesh"].faces) > 100
    from jaxrecon.models.implicit import evaluate, fold

    points = jax.numpy.asarray(recorded["pts"], np.float32)
    outputs = evaluate(names["config"], fold(names["params"]), points)
    np.testing.assert_allclose(outputs, recorded["small_pe6_skip/out_f64"], rtol=1e-4, atol=1e-5)


def test_models_networks(tmp_path, monkeypatch, capsys):
    """The example of networks, on a small checkpoint in SPIN's names with random weights."""
    shapes = torch_states.resnet(18)
    for name, inputs, outputs in (
        *(("fc1", 512 + 157, 64), ("fc2", 64, 64)),
        *(("decpose", 64, 144), ("decshape", 64, 10), ("deccam", 64, 3)),
    ):
        shapes |= torch_states.linear(name, inputs, outputs)
    shapes |= {"init_pose": (1, 144), "init_shape": (1, 10), "init_cam": (1, 3)}
    np.savez(tmp_path / "spin.npz", **torch_states.recipe(shapes))
    monkeypatch.chdir(tmp_path)
    assert main.main(["import-checkpoint", "spin.npz", "--network", "spin", "--out", "spin"]) == 0
    code = next(c for _, c in blocks("models") if "HMRConfig" in c)
    names: dict = {"__name__": "models"}
    exec(compile(code, "docs/how-to/models.md", "exec"), names)  # noqa: S102
    assert "(2, 24, 3, 3) (2, 10) (2, 3)" in capsys.readouterr().out
    estimate = jax.tree.map(np.asarray, names["estimate"])
    np.testing.assert_allclose(np.linalg.det(estimate.rotations), 1.0, atol=1e-4)
    np.testing.assert_allclose(
        names["cameras"].t[:, 2], 2 * 5000 / (224 * estimate.camera[:, 0]), rtol=1e-4
    )


def test_models_bodies(tmp_path, monkeypatch):
    """The example of bodies, on a body of random numbers with the free one's joints."""
    np.savez(tmp_path / "anny_body.npz", **tiny_body())
    monkeypatch.chdir(tmp_path)
    code = next(c for _, c in blocks("models") if "posed_vertices" in c)
    names: dict = {"__name__": "models"}
    exec(compile(code, "docs/how-to/models.md", "exec"), names)  # noqa: S102
    assert names["crowd"].shape == (1000, 40, 3) and names["marks"].shape == (68, 3)
    assert names["model"].joint_names[1:][17] == "left_elbow" and names["body"][17, 1] == -1.2
    still = names["full_pose"](names["model"], np.zeros(3, np.float32))
    straight = names["person"](names["model"], names["betas"], still)[2]
    moved = np.abs(straight - names["joints"]).max(1) > 1e-4
    below = [n for n, m in zip(names["model"].joint_names, moved, strict=True) if m]
    assert "left_wrist" in below and "right_wrist" not in below and "left_elbow" not in below
    assert np.isfinite(names["to_rest"]).all() and np.isfinite(names["normals"]).all()
