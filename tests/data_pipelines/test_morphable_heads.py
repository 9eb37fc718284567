"""Rendered heads: the renderer's parts, the examples, the data set, the loader."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import procedural_albedo
from data_pipelines.head_cameras import orbit_camera
from data_pipelines.morphable_heads import examples, hair
from data_pipelines.morphable_heads.background import background
from data_pipelines.morphable_heads.examples import HeadsConfig, Studio
from data_pipelines.morphable_heads.head import (
    BROWS,
    EYES,
    HAIR,
    LIPS,
    NECK,
    SKIN,
    boundary_loops,
    person,
    prepare_head,
    render,
)
from data_pipelines.morphable_heads.masks import masks_from_landmarks
from data_pipelines.synthetic_head import BROW, EYE, MOUTH, NOSE, synthetic_head
from jaxrecon.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("grain")

from data_pipelines.morphable_heads.builder import RENDERED, build  # noqa: E402
from data_pipelines.morphable_heads.loader import PER_VIEW, load  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SIZE, VIEWS = 48, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The synthetic head with its neck cut open."""
    arrays = synthetic_head()
    corners = arrays["v_mean"][arrays["faces"].astype(int)].mean(1)
    keep = corners[:, 1] > -82.0
    arrays |= {name: arrays[name][keep] for name in ("faces", "face_part")}
    path = tmp_path_factory.mktemp("model") / "cut.npz"
    np.savez(path, **arrays)
    return path


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
def head(model):
    return prepare_head(model)


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


def frontal(head, style, albedo, size=SIZE, elevation=0.0):
    """(RGBA, labels, the camera, the surface) of the mean head seen from the front."""
    zero = jnp.zeros(head.model.identity.shape[0]), jnp.zeros(head.model.expression.shape[0])
    shape = person(head, *zero, albedo, style)
    middle, focal = np.array([0.0, 5.0, 5.0]), size * 1000 / 290
    camera = orbit_camera(0.0, elevation, 0.0, 1000.0, focal, np.full(2, size / 2), middle)
    camera = jax.tree.map(lambda a: np.asarray(a, np.float32), camera)
    light = jnp.zeros((9, 3)).at[0].set(2.0)
    image, labels = render(head, shape, albedo, style, light, camera, size, 1)
    return np.asarray(image), np.asarray(labels), camera, shape


def albedo_with_scalp(opacity):
    named = procedural_albedo.unflatten(procedural_albedo.sample_parameters(jax.random.key(1)))
    return procedural_albedo.flatten(dataclasses.replace(named, scalp=jnp.array([opacity])))


def test_the_neck_is_closed(model, head):
    loops = boundary_loops(np.asarray(head.model.faces))
    assert [len(loop) for loop in loops] == [len(head.loop)] and len(head.loop) > 10
    assert not boundary_loops(np.asarray(head.faces))
    shape = frontal(head, hair.sample_hair(jax.random.key(0)), albedo_with_scalp(1.0))[3]
    v, f = np.asarray(shape["vertices"], np.float64), np.asarray(head.faces)
    assert len(v) == len(head.model.mean) + 1 == len(head.below)
    cap = f[len(head.model.faces) :]
    down = np.cross(v[cap[:, 1]] - v[cap[:, 0]], v[cap[:, 2]] - v[cap[:, 0]])[:, 1]
    assert (down < 0).all()  # outwards is down
    # Seen from below, the cap is there, and it is neck.
    style = hair.sample_hair(jax.random.key(0))
    *_, labels, camera, shape = frontal(head, style, albedo_with_scalp(1.0), elevation=-1.3)
    column, row = np.floor(
        examples.project_points(camera, np.asarray(shape["vertices"])[-1:])[0]
    ).astype(int)
    assert labels[row, column] == NECK


def test_a_closed_head_gets_no_cap(tmp_path):
    np.savez(tmp_path / "closed.npz", **synthetic_head())
    head = prepare_head(tmp_path / "closed.npz")
    assert len(head.loop) == 0 and head.faces.shape == head.model.faces.shape


def test_labels_are_where_the_parts_are(head):
    style = hair.sample_hair(jax.random.key(2))
    image, labels, camera, shape = frontal(head, style, albedo_with_scalp(1.0))
    mean = np.asarray(head.model.mean)

    def near(x, y, labels=labels):
        """Labels of the nine pixels about the foremost point of the mean head at (x, y)."""
        close = np.linalg.norm(mean[:, :2] - [x, y], axis=1)
        point = mean[np.argmin(np.where(mean[:, 2] > 0, close, np.inf))]
        column, row = np.floor(examples.project_points(camera, point[None])[0]).astype(int)
        return set(labels[row - 1 : row + 2, column - 1 : column + 2].ravel().tolist())

    for side in (-1, 1):
        assert EYES in near(side * EYE[0], EYE[1]) and BROWS in near(side * BROW[0], BROW[1])
        assert HAIR in near(side * 20, 95)
    assert LIPS in near(*MOUTH) and near(*NOSE) == near(0, 60) == {SKIN} and labels[0, 0] == 0
    assert NECK in near(0, -80) and EYES not in near(*MOUTH)
    bald = frontal(head, style, albedo_with_scalp(0.1))[1]
    assert SKIN in near(0, 95, bald) and not (bald == HAIR).any() and (labels == HAIR).sum() > 50
    # Label and coverage agree where a pixel has one sample.
    np.testing.assert_array_equal(image[..., 3] > 0, labels > 0)


def test_a_model_without_masks_gets_them_from_its_landmarks(model, tmp_path):
    with np.load(model) as file:
        given = {name[5:]: file[name] > 127 for name in file.files if name.startswith("mask_")}
        bare = {name: file[name] for name in file.files if not name.startswith("mask_")}
    drawn = masks_from_landmarks(bare["v_mean"], bare["v_mean"][bare["landmarks68"]])
    for name, least in {"lips": 0.4, "brows": 0.4, "scalp": 0.6, "ears": 0.3, "iris": 0.4}.items():
        both = (drawn[name] > 0) & given[name]
        assert both.sum() > least * ((drawn[name] > 0) | given[name]).sum(), name
    # The same head as a mask without eyeballs and mouth: labels are there all the same.
    outer = np.isin(bare["face_part"], [0, 1, 4, 5])
    part = np.where(bare["face_part"] > 1, 0, bare["face_part"])[outer]
    np.savez(tmp_path / "bare.npz", **bare | {"faces": bare["faces"][outer], "face_part": part})
    head = prepare_head(tmp_path / "bare.npz")
    labels = frontal(head, hair.sample_hair(jax.random.key(2)), albedo_with_scalp(1.0))[1]
    assert {0, SKIN, LIPS, BROWS, EYES, HAIR, NECK} <= set(np.unique(labels).tolist())


def test_hair_stands_off_the_scalp_only(head):
    style = hair.sample_hair(jax.random.key(3))
    zero = jnp.zeros(head.model.identity.shape[0]), jnp.zeros(head.model.expression.shape[0])
    full = person(head, *zero, albedo_with_scalp(1.0), style)
    bald = person(head, *zero, albedo_with_scalp(0.1), style)
    offset = np.asarray(full["vertices"] - bald["vertices"])
    thickness = np.asarray(full["thickness"])
    assert (np.asarray(bald["thickness"]) == 0).all() and thickness.min() >= 0
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), thickness, atol=1e-3)
    assert (np.sum(offset * np.asarray(bald["normals"]), 1) >= -1e-3).all()
    scalp = np.asarray(head.surface["scalp"]) > 0
    assert thickness[~scalp].max() == 0 and 0.3 * style[0] < thickness.max() < 100
    np.testing.assert_array_equal(full["landmarks"], bald["landmarks"])
    # Smooth: neighbours differ by no more than their distance on the scalp allows.
    faces = np.asarray(head.faces)
    assert np.abs(thickness[faces[:, 0]] - thickness[faces[:, 1]]).max() < 0.6 * thickness.max()


def test_hair_is_the_same_in_every_expression(head):
    style, albedo = hair.sample_hair(jax.random.key(4)), albedo_with_scalp(1.0)
    identity = jnp.ones(head.model.identity.shape[0])
    neutral = person(head, identity, jnp.zeros(head.model.expression.shape[0]), albedo, style)
    moved = person(head, identity, jnp.ones(head.model.expression.shape[0]), albedo, style)
    np.testing.assert_array_equal(neutral["thickness"], moved["thickness"])
    np.testing.assert_array_equal(neutral["colours"], moved["colours"])
    assert np.abs(np.asarray(neutral["vertices"] - moved["vertices"])).max() > 3


def test_strands_and_backgrounds_are_bounded_and_varied():
    around = jax.random.normal(jax.random.key(0), (500, 3))
    factors = np.asarray(hair.strand_shading(hair.sample_hair(jax.random.key(1)), around))
    assert factors.min() >= 0.4 and factors.max() <= 1.6 and 0.02 < factors.std()
    assert abs(factors.mean() - 1) < 0.1
    draw = jax.jit(background, static_argnums=1)
    pictures = np.stack([draw(jax.random.key(i), SIZE) for i in range(6)])
    assert pictures.shape == (6, SIZE, SIZE, 3) and pictures.min() >= 0 and pictures.max() <= 1
    assert pictures.mean((1, 2, 3)).std() > 0.05


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


def test_the_shared_model_makes_a_person(shared):
    path = str(shared / "data" / "ict_head.npz")
    config = HeadsConfig(path, views=1, size=SIZE, supersampling=1, modes=20, azimuth=5.0)
    studio = Studio(config)
    assert len(studio.head.loop) == 54 and studio.head.model.identity.shape[0] == 20
    example = studio.example("train", 0)
    from data_pipelines.morphable_heads.loader import decode_png

    labels = decode_png(example["parsing"][0])
    assert {SKIN, LIPS, BROWS, NECK} <= set(np.unique(labels).tolist())
    assert example["visible"].mean() > 0.6
