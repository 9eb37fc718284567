"""The command line: exit codes, one clear message for each bad input, and what the commands say."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import jaxrecon
from jaxrecon.cli import fit, main
from jaxrecon.errors import InputError

ROOT = pathlib.Path(jaxrecon.__file__).parents[1]
COMMANDS = ("fit", "detect", "evaluate", "import-cameras", "doctor", "cite")
K = [[40.0, 0.0, 16.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]]


def _camera(angle: float) -> dict:
    """A camera 100 mm from the origin, turned about y, image upright."""
    c, s = np.cos(angle), np.sin(angle)
    R = np.diag([1.0, -1.0, -1.0]) @ [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return {"K": K, "R": R.tolist(), "t": [0.0, 0.0, 100.0]}


@pytest.fixture
def views(tmp_path, rng):
    """A consistent views folder: two views 32 x 32 of 68 points in space."""
    folder = tmp_path / "subject"
    folder.mkdir()
    points = rng.uniform(-20, 20, (68, 3))
    document = {"width": 32, "height": 32, "units": "millimetres", "views": []}
    landmarks = {"landmarks2d": []}
    for i, angle in enumerate((-0.3, 0.3)):
        camera = _camera(angle)
        x = points @ np.array(camera["R"]).T + camera["t"]
        p = x @ np.array(K).T
        landmarks["landmarks2d"].append((p[:, :2] / p[:, 2:]).tolist())
        document["views"].append({"file": f"view_{i:03d}.png", **camera})
        pixels = np.full((32, 32, 4), 200, np.uint8)
        pixels[..., 3] = 0
        pixels[8:24, 8:24, 3] = 255
        Image.fromarray(pixels).save(folder / f"view_{i:03d}.png")
    (folder / "cameras.json").write_text(json.dumps(document))
    (folder / "landmarks.json").write_text(json.dumps(landmarks))
    return folder


@dataclasses.dataclass(frozen=True)
class _Options:
    preset: str
    cameras: str
    seed: int
    views: tuple | None
    resolution: int | None
    weights: pathlib.Path | None = None
    colours: str = "photographs"
    detector: str = "own"


@pytest.fixture
def calls(monkeypatch):
    """Calls of the queue, which is replaced: (paths, out, options, others). Subjects called `bad`
    fail by their input, those called `ours` by our fault, and `stop` is interrupted.
    """
    from jaxrecon.pipelines import fit_queue, implicit_deformation

    seen = []

    def fit_folders(paths, out, options, *, should_stop, done, **others):
        seen.append((paths, out, options, others))
        outcomes = []
        for path in paths:
            if path.name == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            if should_stop():
                break
            error = {"bad": InputError("no head"), "ours": KeyError("boom")}.get(path.name)
            report = None if error else out / path.name / "report.html"
            outcomes.append(fit_queue.Outcome(path.name, report, error))
            done(outcomes[-1])
        return outcomes

    monkeypatch.setattr(fit_queue, "fit_folders", fit_folders)
    monkeypatch.setattr(implicit_deformation, "Options", _Options)
    return seen


def _bad(capsys, argv, message):
    """Exit code 2 and one message on stderr that contains `message`."""
    assert main.main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("error: ") == 1
    assert message in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize("argv", [["--help"], *([c, "--help"] for c in COMMANDS)])
def test_help(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main.main(argv)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: jaxrecon" in text
    if argv == ["--help"]:
        assert all(command in text for command in COMMANDS)


@pytest.mark.parametrize(
    "argv",
    [[], ["nonsense"], ["fit", "x"], ["fit", "x", "--out", "y", "--preset", "slow"], ["cite"]],
)
def test_malformed_arguments_exit_with_2(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main.main(argv)
    assert stop.value.code == 2


def test_version(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxrecon {jaxrecon.__version__}\n"


def test_codes_reach_the_shell(tmp_path):
    def run(*argv):
        return subprocess.run(
            [sys.executable, "-m", "jaxrecon", *argv], cwd=ROOT, stdin=subprocess.DEVNULL
        ).returncode

    assert [run("cite", "pamir"), run("cite", "nerf"), run("fit")] == [0, 2, 2]


def test_a_closed_pipe_is_no_fault_of_ours():
    code = "import sys; from jaxrecon.cli.main import main; sys.exit(main(['cite', 'pamir']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_cite(capsys):
    assert main.main(["cite", "implicit_deformation"]) == 0
    assert "Sparse-View Face" in capsys.readouterr().out
    _bad(capsys, ["cite", "nerf"], "pamir")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("boom"), ("RuntimeError: boom", "--debug")),
        (MemoryError(), ("out of memory", "--resolution")),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), ("out of memory", "--views")),
    ],
)
def test_our_faults_exit_with_1(capsys, monkeypatch, error, words):
    def fail(args):
        raise error

    monkeypatch.setitem(main._RUN, main.cite.Cite, fail)
    assert main.main(["cite", "pamir"]) == 1
    text = capsys.readouterr().err
    assert all(word in text for word in words) and "Traceback" not in text
    with pytest.raises(type(error)):
        main.main(["cite", "pamir", "--debug"])


def test_interrupt_exits_with_130(monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setitem(main._RUN, main.cite.Cite, interrupt)
    assert main.main(["cite", "pamir"]) == 130


# ---------------------------------------------------------------- fit


def test_fit_passes_everything_on(capsys, calls, views, tmp_path):
    out = tmp_path / "results"
    argv = ["fit", str(views), "--out", str(out), "--views", "0,1", "--seed", "3", "--resume"]
    argv += ["--weights", "mine", "--colours", "network", "--cameras", "refine", "--batch", "2"]
    argv += ["--detector", "none"]
    assert main.main([*argv, "--preset", "quality", "--resolution", "64"]) == 0
    options = _Options("quality", "refine", 3, (0, 1), 64, pathlib.Path("mine"), "network", "none")
    assert calls == [([views], out, options, {"batch": 2, "resume": True})]
    assert capsys.readouterr().out == f"report: {out / 'subject' / 'report.html'}\n"


def _subjects(folder, views, *names):
    for name in names:
        shutil.copytree(views, folder / name)
    return folder


def test_fit_takes_folders_of_subjects(capsys, calls, views, tmp_path):
    many = _subjects(tmp_path / "many", views, "b", "a")
    (many / "notes").mkdir()
    (many / ".hidden").mkdir()
    out = tmp_path / "o"
    assert main.main(["fit", str(views), str(many), "--out", str(out)]) == 0
    ((paths, _, options, others),) = calls
    assert [path.name for path in paths] == ["subject", "a", "b"]
    assert options == _Options("fast", "auto", 0, None, None)
    assert others == {"batch": 4, "resume": False}
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[:3] == [f"report: {out / n / 'report.html'}" for n in ("subject", "a", "b")]
    assert lines[3:] == [f"3 of 3 subjects done: {out}/SUBJECT/report.html"]
    assert "notes" in captured.err and "hidden" not in captured.err


@pytest.mark.parametrize(("names", "code"), [(("a", "bad"), 2), (("a", "bad", "ours"), 1)])
def test_failed_subjects_are_named_and_set_the_exit_code(
    capsys, calls, views, tmp_path, names, code
):
    many = _subjects(tmp_path / "many", views, *names)
    assert main.main(["fit", str(many), "--out", str(tmp_path / "o")]) == code
    captured = capsys.readouterr()
    assert f"1 of {len(names)} subjects done" in captured.out
    assert "failed: bad: no head" in captured.out and "bad: error: no head" in captured.err
    assert ("failed: ours: fault of jaxrecon: 'boom'" in captured.out) == (code == 1)


def test_one_subject_fails_as_a_whole(capsys, calls, views, tmp_path):
    alone = _subjects(tmp_path / "many", views, "bad", "ours")
    _bad(capsys, ["fit", alone / "bad", "--out", tmp_path / "o"], "no head")
    assert main.main(["fit", str(alone / "ours"), "--out", str(tmp_path / "o")]) == 1
    assert "KeyError" in capsys.readouterr().err


def test_a_signal_stops_the_queue_and_says_how_to_go_on(capsys, calls, views, tmp_path):
    many = _subjects(tmp_path / "many", views, "a", "stop", "z")
    before = signal.getsignal(signal.SIGTERM)
    assert main.main(["fit", str(many), "--out", str(tmp_path / "o")]) == 143
    captured = capsys.readouterr()
    assert "1 of 3 subjects done" in captured.out and "--resume" in captured.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_fit_refuses(capsys, calls, views, tmp_path):
    out, photo = tmp_path / "out", views / "view_000.png"
    twin = _subjects(tmp_path / "a", views, "subject")
    _bad(capsys, ["fit", "--out", out], "no VIEWS")
    _bad(capsys, ["fit", tmp_path / "absent", "--out", out], "no such folder")
    _bad(capsys, ["fit", photo, views / "view_001.png", "--out", out], "not a folder")
    _bad(capsys, ["fit", views, twin, "--out", out], "called subject")
    _bad(capsys, ["fit", views, "--out", out, "--views", "0,x"], "--views 0,x")
    _bad(capsys, ["fit", views, "--out", out, "--seed", "-1"], "--seed -1")
    _bad(capsys, ["fit", views, "--out", out, "--batch", "0"], "--batch 0")
    _bad(capsys, ["fit", views, "--out", out, "--resolution", "4"], "--resolution 4")
    assert not out.exists() and calls == []  # nothing was begun


def test_a_photograph_alone_lacks_landmarks(capsys, views, tmp_path):
    argv = ["fit", views / "view_000.png", "--out", tmp_path / "out", "--detector", "none"]
    _bad(capsys, argv, "landmarks.json")


def test_parse_views():
    assert fit.parse_views(None) is None and fit.parse_views("3, 0,1") == (3, 0, 1)
    for text in ("", "1;2", "1.5"):
        with pytest.raises(InputError):
            fit.parse_views(text)


# ---------------------------------------------------------------- evaluate


def _sphere(path, radius=1.0, centre=(0.0, 0.0, 0.0)):
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    mesh.apply_translation(centre)
    mesh.export(path)
    return path


def test_evaluate_surfaces(capsys, tmp_path):
    truth, larger = _sphere(tmp_path / "a.ply"), _sphere(tmp_path / "b.ply", 1.1)
    assert main.main(["evaluate", str(larger), str(truth), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["protocol"] == "surface" and result["unit"] == "unit of the files"
    assert abs(result["chamfer"] - 0.1) < 0.01
    # --scale undoes it
    assert main.main(["evaluate", str(larger), str(truth), "--scale", str(1 / 1.1), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chamfer"] < 1e-3


def test_evaluate_takes_the_folder_that_fit_wrote_and_prints_a_table(capsys, tmp_path):
    truth = _sphere(tmp_path / "a.ply")
    folder = tmp_path / "fitted"
    folder.mkdir()
    _bad(capsys, ["evaluate", folder, truth], "no mesh.ply")
    _sphere(folder / "mesh.ply")
    assert main.main(["evaluate", str(folder), str(truth)]) == 0
    assert "truth_to_prediction\n  mean" in capsys.readouterr().out


def _with_truth(views, name="gt.ply", units="millimetres"):
    document = json.loads((views / "cameras.json").read_text())
    document["units"] = units
    for view in document["views"]:
        view["gt"] = name
    (views / "cameras.json").write_text(json.dumps(document))
    (views / "landmarks.json").unlink()


def test_evaluate_faces_against_a_folder_or_its_mesh(capsys, views, tmp_path):
    _with_truth(views)
    truth = _sphere(views / "gt.ply", 20.0)
    moved = _sphere(tmp_path / "p.ply", 20.0, centre=(0.0, 0.0, 2.0))
    results = []
    for more in ([views], [truth, "--views", views, "--protocol", "face"]):
        assert main.main(["evaluate", str(moved), *map(str, more), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0] == results[1]
    assert results[0]["protocol"] == "face" and results[0]["unit"] == "mm"
    assert results[0]["raw_mean"] > 0.5 and results[0]["mean"] < 0.1  # ICP undoes the shift


def test_evaluate_bodies_in_centimetres(capsys, views, tmp_path):
    _with_truth(views, units="metres")
    _sphere(views / "gt.ply", 1.0)
    larger = _sphere(tmp_path / "p.ply", 1.1)
    assert main.main(["evaluate", str(larger), str(views), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["unit"] == "cm" and abs(result["chamfer"] - 10) < 1
    _bad(capsys, ["evaluate", larger, views, "--protocol", "face"], "millimetres")


def test_evaluate_refuses(capsys, views, tmp_path):
    truth = _sphere(tmp_path / "a.ply")
    broken = tmp_path / "broken.ply"
    broken.write_text("ply")
    _bad(capsys, ["evaluate", tmp_path / "absent.ply", truth], "absent.ply")
    _bad(capsys, ["evaluate", broken, truth], "broken.ply")
    _bad(capsys, ["evaluate", truth, tmp_path], "no cameras.json")
    _bad(capsys, ["evaluate", truth, truth, "--protocol", "face"], "views folder")
    _bad(capsys, ["evaluate", truth, truth, "--scale", "0"], "--scale 0")
    _bad(capsys, ["evaluate", truth, truth, "--align", "landmarks"], "align")
    _bad(capsys, ["evaluate", truth, views], "ground-truth mesh")
    _bad(capsys, ["evaluate", truth, views, "--protocol", "surface"], "ground truth")
    _bad(capsys, ["evaluate", truth, views, "--landmarks", tmp_path / "no"], "no file")
    short = tmp_path / "marks.json"
    short.write_text('{"landmarks3d": [[0, 0, 0]]}')
    _bad(capsys, ["evaluate", truth, views, "--landmarks", short], "68 finite points")
