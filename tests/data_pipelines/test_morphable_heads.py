"""The data set of rendered heads: its building, its examples, its loader, its command line."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from data_pipelines import head_points
from data_pipelines.morphable_heads import examples, hair
from data_pipelines.morphable_heads.examples import HeadsConfig, Studio
from data_pipelines.morphable_heads.head import prepare_head
from data_pipelines.morphable_heads.scans import scan
from jaxrecon.errors import InputError
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face import load_face_model
from tests.data_pipelines.cut_head import write_cut_head

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("grain")

from data_pipelines.morphable_heads.builder import RENDERED, build  # noqa: E402
from data_pipelines.morphable_heads.loader import PER_VIEW, load  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SIZE, VIEWS = 48, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_cut_head(tmp_path_factory.mktemp("model") / "cut.npz")


@pytest.fixture(scope="module")
def config(model):
    return HeadsConfig(
        str(model),
        identities=2,
        held_out=1,
        expressions=2,
        views=VIEWS,
        size=SIZE,
        supersampling=1,
    )


@pytest.fixture(scope="module")
def built(config, tmp_path_factory):
    """A data set whose building was interrupted after three examples; (folder, what was told)."""
    out = tmp_path_factory.mktemp("data")
    save, told = examples.save_example, {"saved": 0}

    def fail_at_fourth(path, example):
        if told["saved"] == 3:
            raise KeyboardInterrupt
        told["saved"] += 1
        save(path, example)

    patch = pytest.MonkeyPatch()
    patch.setattr(examples, "save_example", fail_at_fourth)
    with pytest.raises(KeyboardInterrupt):
        build(config, out, keep=True)

    def count(path, example):
        told["again"] = told.get("again", 0) + 1
        save(path, example)

    patch.setattr(examples, "save_example", count)
    told["left"] = len(examples.missing_examples(out / RENDERED, config))
    told["prepared"] = list(out.glob("morphable_heads/*/1.0.0"))
    folder = build(config, out, keep=True)
    patch.undo()
    return folder, told


def read_all(folder, split):
    return list(tfds.builder_from_directory(str(folder)).as_data_source(split))


def test_an_interrupted_build_goes_on(built, config):
    folder, told = built
    assert told == {"saved": 3, "left": 5, "prepared": [], "again": 5}
    stamps = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert build(config, folder.parents[2]) == folder  # done: nothing happens
    assert stamps == {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    # More people need only the new ones.
    more = dataclasses.replace(config, identities=4)
    missing = examples.missing_examples(folder.parents[2] / RENDERED, more)
    assert missing == [("train", i) for i in range(4, 8)]


def test_examples_agree_with_their_cameras_and_labels(built, config):
    folder, _ = built
    for example in read_all(folder, "train") + read_all(folder, "test"):
        for i in range(VIEWS):
            K, R, t = (np.float64(example[name][i]) for name in "KRt")
            np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-5)
            x = (example["landmarks3d"] @ R.T + t) @ K.T
            np.testing.assert_allclose(x[:, :2] / x[:, 2:], example["landmarks2d"][i], atol=0.01)
            parsing, mask = example["parsing"][i], example["mask"][i]
            assert example["image"][i].shape == (SIZE, SIZE, 3) and parsing.max() <= 8
            np.testing.assert_array_equal(mask, 255 * (parsing != 0).astype(np.uint8))
            assert 0.08 < (parsing > 0).mean() < 0.95
            visible = example["visible"][i]
            column, row = np.floor(example["landmarks2d"][i][visible]).astype(int).T
            # Landmarks on the outline may fall on the next pixel.
            beside = np.pad(parsing[..., 0] > 0, 1)
            shifts = [(a, b) for a in range(3) for b in range(3)]
            beside = np.any([beside[a : a + SIZE, b : b + SIZE] for a, b in shifts], axis=0)
            assert visible.sum() > 15 and beside[row, column].all()
            # One side of the jaw at most is hidden from a camera in front.
            assert visible[:8].any() or visible[9:17].any()


def test_splits_share_no_identity(built, config):
    folder, _ = built
    seeds = {s: [e["identity_seed"] for e in read_all(folder, s)] for s in examples.SPLITS}
    assert seeds == {
        "train": [0, 0, 1, 1],
        "validation": [1_000_000] * 2,
        "test": [2_000_000] * 2,
    }
    people = [e["identity"] for s in examples.SPLITS for e in read_all(folder, s)[::2]]
    assert min(np.abs(a - b).max() for a in people for b in people if a is not b) > 0.1
    first, second = read_all(folder, "train")[:2]
    for name in ("identity", "albedo", "hair"):
        np.testing.assert_array_equal(first[name], second[name])
    for name in ("expression", "lighting", "K", "t"):
        assert np.abs(first[name] - second[name]).max() > 0


def test_examples_depend_on_seed_and_index_alone(built, config):
    folder, _ = built
    stored = read_all(folder, "train")[3]
    again = Studio(config).example("train", 3)
    for name in ("identity", "expression", "albedo", "hair", "lighting", "K", "landmarks2d"):
        np.testing.assert_array_equal(stored[name], again[name])
    path = examples.example_path(folder.parents[2] / RENDERED, config, "train", 3)
    for name in ("image", "mask", "parsing"):
        assert examples.read_example(path)[name] == again[name]
    other = dataclasses.replace(config, seed=1)
    assert other.recipe() != config.recipe()
    assert np.abs(Studio(other).example("train", 3)["identity"] - again["identity"]).max() > 0.1


def test_progress_tells_the_time_left(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 102.0, 120.0, 3702.0])  # the first example waits for the compiler
    monkeypatch.setattr(examples.time, "monotonic", lambda: next(clock))
    progress = examples.Progress(total=2005, done=5)
    for _ in range(4):
        progress.step()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "rendered 6/2005",
        "rendered 8/2005, 10.00 s an example, 5:32:50 left",
        "rendered 9/2005, 1200.67 s an example, 665:42:10 left",
    ]


def test_batches(built):
    folder, _ = built
    batches = list(load(folder, "train", 2, seed=0, epochs=1))
    assert len(batches) == 2
    batch = batches[0]
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert shapes == {
        "image": ((2, VIEWS, SIZE, SIZE, 3), "uint8"),
        "mask": ((2, VIEWS, SIZE, SIZE), "bool"),
        "parsing": ((2, VIEWS, SIZE, SIZE), "uint8"),
        "K": ((2, VIEWS, 3, 3), "float32"),
        "R": ((2, VIEWS, 3, 3), "float32"),
        "t": ((2, VIEWS, 3), "float32"),
        "landmarks2d": ((2, VIEWS, 68, 2), "float32"),
        "visible": ((2, VIEWS, 68), "bool"),
        "landmarks3d": ((2, 68, 3), "float32"),
        "identity": ((2, 6), "float32"),
        "expression": ((2, 13), "float32"),
        "albedo": ((2, procedural_albedo.PARAMETERS), "float32"),
        "hair": ((2, hair.PARAMETERS), "float32"),
        "lighting": ((2, 9, 3), "float32"),
        "identity_seed": ((2,), "int64"),
        "expression_index": ((2,), "int64"),
    }
    seen = [
        tuple(x)
        for b in batches
        for x in zip(b["identity_seed"], b["expression_index"], strict=True)
    ]
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1)]

    # Single pictures are the views of the examples.
    whole = next(iter(load(folder, "train", 4, seed=None)))
    single = next(iter(load(folder, "train", 4 * VIEWS, seed=None, single=True)))
    for name in whole:
        pick = whole[name] if name in PER_VIEW else np.repeat(whole[name][:, None], VIEWS, 1)
        np.testing.assert_array_equal(pick.reshape(single[name].shape), single[name])

    # A resumed iterator goes on with the same batch.
    iterator = iter(load(folder, "train", 2, seed=5))
    next(iterator)
    state = iterator.get_state()
    expected = next(iterator)
    resumed = iter(load(folder, "train", 2, seed=5))
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["image"], expected["image"])


def test_command_line_without_tensorflow_in_other_processes(built, config, tmp_path):
    folder, _ = built
    code = (
        "import sys, json\n"
        "from data_pipelines.morphable_heads.__main__ import main\n"
        "from data_pipelines.morphable_heads.loader import load\n"
        "model, out, folder = sys.argv[1:]\n"
        f"main(['--model', model, '--out', out, '--identities', '1', '--held-out', '0', '--views', "
        f"'{VIEWS}', '--size', '{SIZE}', '--supersampling', '1', '--workers', '1'])\n"
        "batches = iter(load(folder, 'train', 2, seed=None, epochs=1, workers=1))\n"
        "seeds = next(batches)['identity_seed'].tolist()\n"
        "batches.close()\n"
        "print(json.dumps([seeds, 'tensorflow' in sys.modules]))\n"
    )
    arguments = [config.model, str(tmp_path), str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert json.loads(lines[-1]) == [[0, 0], False]
    assert "rendered 1/1" in done.stderr
    data = pathlib.Path(lines[-2])
    mine, theirs = read_all(folder, "train")[0], read_all(data, "train")
    assert len(theirs) == 1 and not (tmp_path / RENDERED).exists()
    for name in ("image", "parsing", "landmarks2d", "visible"):
        np.testing.assert_array_equal(mine[name], theirs[0][name])


def test_bad_input(config, model, tmp_path, capsys):
    from data_pipelines.morphable_heads.__main__ import main

    with pytest.raises(InputError, match="odd"):
        build(dataclasses.replace(config, supersampling=2), tmp_path)
    with pytest.raises(InputError, match="positive"):
        build(dataclasses.replace(config, views=0), tmp_path)
    with pytest.raises(InputError, match="at most"):
        dataclasses.replace(config, identities=2_000_000).check()
    with np.load(model) as file:
        some = {name: file[name] for name in file.files if name != "mask_lips"}
    np.savez(tmp_path / "some.npz", **some)
    with pytest.raises(InputError, match="mask_lips"):
        prepare_head(tmp_path / "some.npz")
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(tmp_path / "none.npz"), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "no such file" in capsys.readouterr().err


def test_a_killed_build_goes_on_to_the_same_bytes(built, config, tmp_path):
    """Killed once its first example is there; the same command ends like one never killed."""
    command = [sys.executable, "-m", "data_pipelines.morphable_heads", "--model", config.model]
    command += ["--out", str(tmp_path), "--identities", "1", "--held-out", "0", "--keep"]
    command += ["--expressions", "2", "--views", str(VIEWS), "--size", str(SIZE)]
    command += ["--supersampling", "1"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 300
    while not list(tmp_path.glob(f"{RENDERED}/*/train/[0-9]*.npz")):
        assert process.poll() is None and time.monotonic() < patience
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("morphable_heads/*/1.0.0"))
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = built[0].parents[2] / RENDERED
    for path in (tmp_path / RENDERED).rglob("[0-9]*.npz"):
        other = whole / path.relative_to(tmp_path / RENDERED)
        assert path.read_bytes() == other.read_bytes(), path.name
    # The files of the data set hold the same; their bytes follow the order of a hash table.
    mine = read_all(pathlib.Path(done.stdout.split()[-1]), "train")
    assert len(mine) == 2
    for example, other in zip(mine, read_all(built[0], "train"), strict=False):
        for name, value in example.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_the_papers_preset(config, monkeypatch):
    from data_pipelines.morphable_heads import __main__, builder

    asked = []
    monkeypatch.setattr(builder, "build", lambda config, *rest: asked.append((config, *rest)))
    monkeypatch.setattr(tfds, "disable_progress_bar", lambda: None)
    base = ["--model", config.model, "--out", "x"]
    __main__.main([*base, "--preset", "paper", "--identities", "3"])
    __main__.main(base)
    (papers, *rest), (plain, *_) = asked
    assert (papers.views, papers.azimuth, papers.identities, papers.expressions) == (40, 90, 3, 8)
    assert plain == HeadsConfig(config.model) and rest == ["x", 0, False]
    with pytest.raises(SystemExit):
        __main__.main([*base, "--preset", "huge"])


def test_a_scan_is_of_its_example(built, model):
    """Points drawn for the stored coefficients lie on the person's own surface."""
    example = read_all(built[0], "train")[0]
    face = load_face_model(model)
    sampler = head_points.make_sampler(face, head_points.SampleConfig(), 100)
    identity, expression = example["identity"], example["expression"]
    drawn = scan(sampler, identity, expression, jax.random.key(0), 40_000)
    assert {k: v.shape for k, v in drawn.items()} == dict.fromkeys(
        ("points", "normals", "reference_points"), (40_000, 3)
    )
    vertices = np.asarray(head_points.canonical_vertices(sampler, identity, expression))
    points, normals = np.asarray(drawn["points"]), np.asarray(drawn["normals"])
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    corners = vertices[np.asarray(face.faces)].astype(np.float64)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    planes = across / np.linalg.norm(across, axis=1, keepdims=True)
    for i in (0, 19_999, 20_000, 39_999):  # each on the plane of some face, along its normal
        height = np.abs(np.sum((points[i] - corners[:, 0]) * planes, axis=1))
        along = planes @ normals[i] > 1 - 1e-5
        assert height[along].min() < 1e-5
    # chunks are drawn with keys of their own
    assert len(np.unique(points, axis=0)) > 39_900
    with pytest.raises(ValueError, match="multiple"):
        scan(sampler, identity, expression, jax.random.key(0), 30_000)
