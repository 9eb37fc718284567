"""Rendered people for the face network: exact landmarks, labels, visibility, shards."""

import copy
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import detector_shards
from data_pipelines.detector_faces import __main__ as command_line
from data_pipelines.detector_faces import bust, glasses, pose, shells
from data_pipelines.detector_faces.examples import FacesConfig, FaceStudio, render_shards
from data_pipelines.detector_faces.figure import BUST, prepare_figure
from data_pipelines.detector_faces.look import sample_look
from data_pipelines.detector_faces.render import render_figure
from data_pipelines.detector_faces.scene import Dresser
from data_pipelines.head_cameras import orbit_camera, visible_points
from data_pipelines.morphable_heads.examples import SEEDS_PER_SPLIT, SPLITS, project_points
from data_pipelines.morphable_heads.head import person
from data_pipelines.synthetic_head import write_synthetic_head
from jaxrecon.errors import InputError
from jaxrecon.types import FACE_LABELS, Cameras
from tests.data_pipelines.cut_head import write_cut_head

SIZE = 64
LABEL = {name: i for i, name in enumerate(FACE_LABELS)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_cut_head(tmp_path_factory.mktemp("model") / "cut.npz")


@pytest.fixture(scope="module")
def config(model):
    return FacesConfig(str(model), count=3, size=SIZE)


@pytest.fixture(scope="module")
def studio(config):
    return FaceStudio(config)


def _plain(**changes):
    """A clean-shaven person with short hair and crew neck, without anything on."""
    albedo = np.full(29, 0.4, np.float32)
    style = np.concatenate([[6.0, 4.0, 5.0], np.zeros(13)]).astype(np.float32)
    look = sample_look(np.random.default_rng(0), albedo, style)
    albedo = look.albedo.copy()
    albedo[10] = 1.0  # opacity of the scalp
    plain = dataclasses.replace(
        look,
        albedo=albedo,
        style=style,
        neckline=np.array([-118.0, 25, 40, 0, 0, 60, -420]),
        collar=(0.0, 1.0, 0.0),
        hat=np.array([1e4, 0, 0, 0, 0, 1, 0, 0]),
        long_hair=None,
        scarf=False,
        fringe=None,
        peak=0.0,
        bun=None,
        frame=None,
    )
    return dataclasses.replace(plain, **changes)


def _camera(azimuth, landmarks, focal=0.22 * SIZE * 900 / 86.0):
    target = landmarks[27:60].mean(0).astype(np.float64)
    camera = orbit_camera(
        np.radians(azimuth), 0.05, 0.0, 900.0, focal, np.full(2, SIZE / 2), target
    )
    return jax.tree.map(lambda a: np.asarray(a, np.float32), camera)


def _draw(studio, look, azimuth=0.0, turn=(0.0, 0.0, 0.0)):
    """(rgba, labels, visible, scene, camera) of the mean head in a look."""
    head = studio.figure.head
    zeros = np.zeros(head.model.identity.shape[0]), np.zeros(head.model.expression.shape[0])
    shape = person(head, *(z.astype(np.float32) for z in zeros), look.albedo, look.style)
    landmarks = np.asarray(shape["landmarks"], np.float64)
    scene = studio.dresser.dress(
        np.random.default_rng(1), look, np.asarray(shape["vertices"]), landmarks, np.array(turn)
    )
    light = np.zeros((9, 3), np.float32)
    light[0] = 3.0
    scene |= {"lighting": light, "shine": np.array([0.0, 0.0, 1.0]), "key": np.ones(3)}
    scene = {
        k: np.asarray(v, np.int32 if k in ("glasses_faces", "glasses_lens") else np.float32)
        for k, v in scene.items()
    }
    camera = _camera(azimuth, landmarks)
    drawn = render_figure(studio.figure, scene, camera, SIZE, 2)
    return *(np.asarray(d) for d in drawn), scene, camera


def _pixels(camera, points):
    x = (points.astype(np.float64) @ np.float64(camera.R).T + camera.t) @ np.float64(camera.K).T
    return x[:, :2] / x[:, 2:]


def test_an_example_is_sound_and_depends_on_its_index_alone(config, studio):
    drawn = [studio.example(i) for i in range(4)]
    for i, e in enumerate(drawn):
        assert e["image"].shape == (SIZE, SIZE, 4) and e["image"].dtype == np.uint8
        assert e["labels"].shape == (SIZE, SIZE) and e["labels"].max() < len(FACE_LABELS)
        assert e["landmarks"].shape == (68, 2) and e["landmarks"].dtype == np.float32
        assert e["visible"].shape == (68,) and e["visible"].dtype == bool
        assert e["seed"] == i
        # Eyes and mouth lie about the middle of the picture.
        middle = (e["landmarks"][36:48].mean(0) + e["landmarks"][48:60].mean(0)) / 2
        assert np.abs(middle / SIZE - 0.5).max() < 0.08
    again = FaceStudio(config).example(2)
    for name, value in again.items():
        np.testing.assert_array_equal(value, drawn[2][name])
    assert not np.array_equal(drawn[0]["image"], drawn[1]["image"])
    held_out = copy.copy(studio)
    held_out.config = dataclasses.replace(config, split="test")
    other = held_out.example(2)
    assert other["seed"] == 2_000_002 and not np.array_equal(other["image"], again["image"])


def test_landmarks_are_the_projected_vertices_of_the_mesh_that_is_drawn(studio):
    look = _plain()
    *_, scene, camera = _draw(studio, look, 20.0, (0.1, 0.4, 0.0))
    vertices = scene["vertices"][np.asarray(studio.figure.head.model.landmarks)]
    # The turning body leaves the face where it is.
    np.testing.assert_allclose(vertices, scene["landmarks"], atol=1e-3)
    np.testing.assert_allclose(
        project_points(camera, scene["landmarks"]), _pixels(camera, vertices), atol=1e-3
    )


def test_a_nose_is_drawn_where_its_landmark_is(studio):
    rgba, labels, visible, scene, camera = _draw(studio, _plain())
    x, y = np.floor(_pixels(camera, scene["landmarks"])).astype(int).T
    assert labels[y[30], x[30]] == LABEL["skin"] and visible[30]
    assert set(labels[y[36:48], x[36:48]]) <= {LABEL["eyes"], LABEL["skin"]}
    assert LABEL["lips"] in labels[y[48:60], x[48:60]]
    assert LABEL["hair"] in labels[: y[27]] and LABEL["clothes"] in labels[y[8] :]
    assert LABEL["neck"] in labels[y[8] :, x[8]]


def test_labels_are_background_exactly_where_nothing_covers_the_pixel(studio):
    rgba, labels, *_ = _draw(studio, _plain(), 40.0)
    alpha = rgba[..., 3]
    assert (labels[alpha == 0] == 0).all() and (labels[alpha == 1] > 0).all()
    # At the rim the pixel's centre decides, for about every second pixel.
    rim = (alpha > 0) & (alpha < 1)
    assert rim.sum() > 40 and 0.25 < (labels[rim] > 0).mean() < 0.75


@pytest.mark.parametrize("azimuth", [0.0, 65.0])
def test_visibility_agrees_with_rays_against_all_triangles(studio, azimuth):
    look = _plain(fringe=(0.9, 30.0, 0.0))
    _, _, visible, scene, camera = _draw(studio, look, azimuth)
    centre = jnp.asarray(-camera.R.T @ camera.t)
    rays = np.asarray(
        visible_points(
            jnp.asarray(scene["landmarks"]),
            centre,
            jnp.asarray(scene["vertices"]),
            studio.figure.faces,
        )
    )
    # At this size a pixel is 6 mm wide: only what turns away may differ.
    assert (visible == rays).mean() > 0.9
    assert not rays[17:27].all() and visible[48:60].any()
    if azimuth:
        assert not visible[:5].any() or not visible[12:17].any()


def test_a_fringe_hides_the_brows_and_dark_lenses_the_eyes(studio):
    bare = _draw(studio, _plain())
    assert bare[2][17:48].all()
    cut = _draw(studio, _plain(fringe=(0.9, 30.0, 0.0)))
    assert not cut[2][18:26].any() and cut[2][48:60].all()
    assert np.sum(cut[1] == LABEL["hair"]) > np.sum(bare[1] == LABEL["hair"])
    frame = glasses.sample_frame(np.random.default_rng(3)) | {
        "half_width": 27.0,
        "half_height": 22.0,
        "slide": 0.0,
        "tint": np.zeros(3),
        "glare": 0.0,
    }
    clear = _draw(studio, _plain(frame=frame | {"opacity": 0.05}))
    dark = _draw(studio, _plain(frame=frame | {"opacity": 0.95}))
    assert clear[2][36:48].all() and not dark[2][36:48].any()
    assert dark[2][48:60].all() and dark[2][30]
    # Glasses are colour only.
    np.testing.assert_array_equal(dark[1], bare[1])
    eyes = bare[1] == LABEL["eyes"]
    assert dark[0][eyes][:, :3].mean() < 0.5 * clear[0][eyes][:, :3].mean()


def test_long_hair_scarf_hat_and_bun_are_labelled(studio):
    bare = _draw(studio, _plain())[1]

    def more(name, **changes):
        labels = _draw(studio, _plain(**changes))[1]
        return np.sum(labels == LABEL[name]) - np.sum(bare == LABEL[name])

    long_hair = (np.radians(120), -150.0, 10.0, 15.0)
    assert more("hair", long_hair=long_hair) > 40
    assert more("clothes", long_hair=long_hair, scarf=True) > 20
    hat = np.array([75.0, 0.1, 0.8, 0.1, 0.1, 0.4, 8.0, 0.0])
    assert more("clothes", hat=hat) > 40 and more("clothes", hat=hat, peak=60.0) > 40
    assert more("hair", bun=np.array([0.0, 85.0, 0.0, 35.0])) > 20
    assert more("clothes", collar=(12.0, 1.5, 10.0)) > 0


def test_a_neckline_divides_neck_from_clothes(studio):
    shallow = _draw(studio, _plain())[1]
    deep = np.array([-118.0, 25, 80, 120, 0, 60, -420])
    cut = _draw(studio, _plain(neckline=deep))[1]
    assert np.sum(cut == LABEL["neck"]) > 1.1 * np.sum(shallow == LABEL["neck"])
    front, back = np.array([[0.0, -150, 55], [0.0, -150, -85]])
    assert bust.neckline_depth(np, front, deep) < 0 < bust.neckline_depth(np, back, deep)


def test_the_bust_joins_the_neck_and_faces_outward(studio):
    figure = studio.figure
    *_, scene, _ = _draw(studio, _plain(), turn=(0.0, 0.5, 0.0))
    faces = np.asarray(figure.faces)[np.asarray(figure.material) == BUST]
    used = np.unique(faces)
    assert np.isin(np.asarray(figure.rim_ids), used).all()
    corners = scene["vertices"][faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    middle = corners.mean(1)
    low = middle[:, 1] < -300
    outward = (middle - middle[low].mean(0))[:, [0, 2]]
    assert ((normals[:, [0, 2]] * outward).sum(1)[low] > 0).all()
    # The body is turned, to the subject's left.
    own = used[used >= len(figure.rest)]
    broad = scene["vertices"][own[np.argmax(scene["vertices"][own, 0])]]
    assert np.ptp(scene["vertices"][own, 0]) > 250 and broad[2] < -20


def test_a_head_without_rim_gets_a_bust_of_its_own(tmp_path):
    figure = prepare_figure(write_synthetic_head(tmp_path / "head.npz"))
    rest = np.asarray(figure.rest)
    assert (np.asarray(figure.rim_ids) >= len(rest)).all()
    marks = np.asarray(figure.head.model.landmark_points(rest))
    scene = Dresser(figure).dress(
        np.random.default_rng(0), _plain(), rest, marks.astype(np.float64), np.zeros(3)
    )
    faces = np.asarray(figure.faces)
    assert len(scene["vertices"]) == faces.max() + 1
    bust_part = scene["vertices"][faces[np.asarray(figure.material) == BUST]]
    assert np.ptp(bust_part[..., 0]) > 250 and bust_part[..., 1].max() >= marks[8, 1] - 1


def test_eyes_turn_about_their_centres():
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(200, 3))
    ball = np.array([30.0, 20, 70]) + 12 * ball / np.linalg.norm(ball, axis=1, keepdims=True)
    ball[0] = [30.0, 20, 82]
    turned = pose.turn_eyes(ball, [np.arange(200)], np.array([0.3, 0.2]))
    np.testing.assert_allclose(np.linalg.norm(turned - [30, 20, 70], axis=1), 12, atol=1e-6)
    gaze = (turned[0] - [30, 20, 70]) / 12
    assert gaze[0] > 0.2 and gaze[2] > 0.9
    np.testing.assert_allclose(np.arctan2(gaze[0], gaze[2]), 0.3, atol=1e-6)
    assert gaze[1] > 0.15


def test_expressions_are_varied():
    names = ("eyeBlink_L", "eyeBlink_R", "jawOpen", "mouthClose", "mouthSmile_L", "mouthSmile_R")
    drawn = np.stack(
        [
            pose.vary_expression(np.random.default_rng(i), np.zeros(6), names, np.zeros(2))
            for i in range(400)
        ]
    )
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert 0.05 < (drawn[:, 0] > 0.7).mean() < 0.16  # closed eyes
    assert 0.15 < (drawn[:, 2] > 0.2).mean() < 0.35
    assert 0.15 < (drawn[:, 4] > 0.3).mean() < 0.35


def test_cameras_show_the_whole_head_at_one_scale(studio):
    marks = np.asarray(studio.figure.head.model.landmark_points(studio.figure.head.model.mean))
    marks = marks.astype(np.float64)
    turns, distances = [], []
    for i in range(300):
        camera, azimuth = pose.sample_camera(np.random.default_rng(i), 100, marks)
        assert isinstance(camera, Cameras)
        centre = -np.float64(camera.R).T @ camera.t
        target = (marks[36:48].mean(0) + marks[48:60].mean(0)) / 2
        distance = float(np.linalg.norm(centre - target))
        front = orbit_camera(0, 0, 0, distance, float(camera.K[0, 0]), np.full(2, 50.0), target)
        corners = _pixels(front, marks[[36, 45]])
        assert abs(corners[1, 0] - corners[0, 0] - 22.0) < 0.01
        turns.append(np.degrees(azimuth))
        distances.append(distance)
    assert 0.75 < (np.abs(turns) < 45).mean() < 0.95 and 60 < np.abs(turns).max() <= 80
    assert 350 <= min(distances) < 450 and 2300 < max(distances) <= 3000


def test_points_are_pushed_out_of_a_surface():
    ring = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([50 * np.cos(ring), 0 * ring, 50 * np.sin(ring)], 1)
    points = np.array([[45.0, 0, 0], [60.0, 0, 0], [0, 0, -49.0]])
    moved = shells.pushed_out(points, circle, circle / 50, 5.0)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), [55, 60, 55], atol=1e-3)


def test_shards_resume_and_do_not_mix(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detector_shards, "SHARD", 2)
    config = dataclasses.replace(config, count=3)
    assert render_shards(tmp_path, config) == 2
    first, second = sorted((tmp_path / "train").glob("*.npz"))
    with np.load(first, allow_pickle=False) as file:
        shapes = {k: (file[k].shape, file[k].dtype) for k in file.files}
        image = file["image"]
    assert shapes == {
        "image": ((2, SIZE, SIZE, 4), np.uint8),
        "labels": ((2, SIZE, SIZE), np.uint8),
        "landmarks": ((2, 68, 2), np.float32),
        "visible": ((2, 68), np.bool_),
        "seed": ((2,), np.int64),
    }
    before = first.stat().st_mtime_ns
    assert render_shards(tmp_path, config) == 0
    # One more: the shard that was too small is rendered again, the other is not.
    assert render_shards(tmp_path, dataclasses.replace(config, count=4)) == 1
    assert first.stat().st_mtime_ns == before
    with np.load(second, allow_pickle=False) as file:
        assert file["seed"].tolist() == [2, 3]
    second.write_bytes(b"broken")
    first.unlink()
    assert render_shards(tmp_path, dataclasses.replace(config, count=4)) == 2
    with np.load(first, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["image"], image)
    with pytest.raises(InputError, match=r"recipe.json"):
        render_shards(tmp_path, dataclasses.replace(config, size=SIZE + 1))
    assert json.loads((tmp_path / "train" / "recipe.json").read_text())["size"] == SIZE
    assert "rendered" in capsys.readouterr().err


def test_splits_have_different_people(config):
    span = range(0, SEEDS_PER_SPLIT, 250_000)
    seeds = [dataclasses.replace(config, split=s).seeds(span) for s in SPLITS]
    assert len(np.unique(np.concatenate(seeds))) == 3 * len(span)
    assert all(np.ptp(s) < SEEDS_PER_SPLIT for s in seeds)


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "dev"},
        {"count": 0},
        {"first": 10},
        {"first": -64},
        {"count": 1_000_001},
        {"size": 8},
        {"supersampling": 0},
        {"model": "absent.npz"},
    ],
)
def test_unsound_options_are_told(config, wrong):
    with pytest.raises(InputError):
        dataclasses.replace(config, **wrong).check()


def test_the_command_line_tells_errors_and_is_light(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["--model", str(tmp_path / "no.npz"), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "no such file" in capsys.readouterr().err
    code = (
        "import sys; from data_pipelines.detector_faces.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'scipy' not in sys.modules"
    )
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--split" in done.stdout
