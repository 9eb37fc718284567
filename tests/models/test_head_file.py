"""Head models of every layout come out in one form; heads of bodies keep their shape."""

import jax
import numpy as np
import pytest

from data_pipelines import head_points
from data_pipelines.morphable_heads.head import prepare_head
from data_pipelines.synthetic_head import synthetic_head
from jaxrecon.errors import InputError
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face import kept_vertices, load_face_model
from jaxrecon.models.parametric.head_file import (
    REFERENCE,
    place_by_landmarks,
    read_head,
    sided_name,
)

HEAD = synthetic_head()
COUNT = len(HEAD["v_mean"])
TURN = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""A rotation to other axes."""


def plain(**changes) -> dict:
    """A head as a user would convert one: no parts, no masks, no expressions."""
    arrays = {key: HEAD[key] for key in ("v_mean", "id_basis", "faces", "landmarks68")}
    return {k: v for k, v in (arrays | changes).items() if v is not None}


def barycentric() -> dict:
    """The landmarks of `HEAD` in the middle of a face each that has them as a corner."""
    faces = [int(np.flatnonzero((HEAD["faces"] == i).any(1))[0]) for i in HEAD["landmarks68"]]
    return {
        "landmarks68": None,
        "landmarks68_face": np.array(faces),
        "landmarks68_bary": np.full((68, 3), 1 / 3, np.float32),
    }


def body(rng) -> dict:
    """A body in metres and other axes, of which `HEAD` is the head: twenty vertices below it, modes
    of which one carries the head along and one does not touch it.
    """
    below = rng.normal(0, 100, (20, 3)) + [0, -600, 0]
    vertices = np.concatenate([below, HEAD["v_mean"]]) @ TURN.T / 1000 + [0.1, 0.2, 1.5]
    still = np.zeros((len(HEAD["id_basis"]), 20, 3))
    modes = np.concatenate([still, HEAD["id_basis"]], axis=1) @ TURN.T / 1000
    carried = np.broadcast_to([0.02, 0.1, -0.03], vertices.shape)
    apart = np.where(np.arange(len(vertices))[:, None] < 20, 0.1, 0.0) * np.ones(3)
    lower = rng.integers(0, 20, (30, 3))
    order = rng.permutation(30 + len(HEAD["faces"]))
    faces = np.concatenate([lower, HEAD["faces"].astype(int) + 20])[order]
    new = np.argsort(order)
    marks = barycentric()
    deltas = HEAD["expr_delta"].astype(float) @ TURN.T / 1000
    names = [n.replace("_L", "Left").replace("_R", "Right") for n in HEAD["expr_names"]]
    names[names.index("mouthPucker")] = "tongueOut"
    return {
        "v_template": vertices,
        "shapedirs": np.concatenate([carried[None], apart[None], modes]),
        "faces": faces,
        "head_faces": order >= 30,
        "head_face_part": HEAD["face_part"][order[order >= 30] - 30],
        "head_part_names": HEAD["part_names"],
        "landmarks68_face": new[marks["landmarks68_face"] + 30],
        "landmarks68_bary": marks["landmarks68_bary"],
        "expr_names": np.array(names),
        "expr_ptr": HEAD["expr_ptr"],
        "expr_idx": HEAD["expr_idx"].astype(int) + 20,
        "expr_delta": deltas,
        "unit": np.array("metres"),
        **{
            k: np.concatenate([np.zeros(20, np.uint8), v])
            for k, v in HEAD.items()
            if k.startswith("mask_")
        },
    }


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def distances(points):
    """Distances of every seventh point to the first ones: what a rigid motion keeps."""
    return np.linalg.norm(points[::7, None] - points[None, :40], axis=-1)


def test_a_plain_head_is_all_face(tmp_path):
    path = save(tmp_path / "plain.npz", plain())
    model = load_face_model(path)
    np.testing.assert_array_equal(model.mean, HEAD["v_mean"])
    assert model.expression.shape == (0, COUNT, 3) and model.expression_names == ()
    assert len(kept_vertices(path)) == COUNT
    np.testing.assert_array_equal(
        model.landmark_points(model.mean), HEAD["v_mean"][HEAD["landmarks68"]]
    )
    with pytest.raises(InputError, match="teeth"):
        load_face_model(path, ("teeth",))


@pytest.mark.parametrize(("unit", "factor"), [("metres", 1000), ("micrometres", 1e-3)])
def test_units(unit, factor, tmp_path):
    small = plain(
        v_mean=HEAD["v_mean"] / factor,
        id_basis=HEAD["id_basis"].astype(float) / factor,
        expr_basis=np.ones((2, COUNT, 3)) / factor,
        unit=np.array(unit),
    )
    model = load_face_model(save(tmp_path / "small.npz", small))
    np.testing.assert_allclose(model.mean, HEAD["v_mean"], atol=1e-4)
    np.testing.assert_allclose(model.identity, HEAD["id_basis"].astype(float), atol=1e-5)
    np.testing.assert_allclose(model.expression, 1.0, rtol=1e-6)
    assert model.expression_names == ("mode_000", "mode_001")


def test_barycentric_landmarks(tmp_path):
    marks = barycentric()
    model = load_face_model(save(tmp_path / "bary.npz", plain(**marks)))
    expected = HEAD["v_mean"][HEAD["faces"][marks["landmarks68_face"]]].mean(1)
    np.testing.assert_allclose(model.landmark_points(model.mean), expected, atol=1e-4)
    both = np.stack([model.mean, 2 * model.mean])
    np.testing.assert_allclose(model.landmark_points(both)[1], 2 * expected, atol=1e-4)
    # The nearest vertices are corners of the landmark's face.
    faces = np.asarray(model.faces)[marks["landmarks68_face"]]
    assert (faces == np.asarray(model.landmarks)[:, None]).any(1).all()


def test_any_frame_is_placed_by_landmarks(tmp_path, rng):
    marks = rng.normal(0, 50, (68, 3))
    marks[list(REFERENCE)] = list(REFERENCE.values())
    R, t = place_by_landmarks((marks - [5.0, 600.0, -40.0]) @ TURN)
    np.testing.assert_allclose(((marks - [5.0, 600.0, -40.0]) @ TURN) @ R.T + t, marks, atol=1e-9)
    moved = plain(
        v_mean=HEAD["v_mean"] @ TURN.T + 300.0,
        id_basis=HEAD["id_basis"].astype(float) @ TURN.T,
        frame=np.array("any"),
    )
    model = load_face_model(save(tmp_path / "moved.npz", moved))
    np.testing.assert_allclose(distances(model.mean), distances(HEAD["v_mean"]), atol=2e-3)
    places = np.asarray(model.landmark_points(model.mean))[list(REFERENCE)]
    assert np.linalg.norm(places - list(REFERENCE.values()), axis=1).max() < 25
    # Modes turn with the head.
    shift = np.einsum("kvx,vx->k", model.identity, model.mean - model.mean.mean(0))
    centred = HEAD["v_mean"] - HEAD["v_mean"].mean(0)
    same = np.einsum("kvx,vx->k", HEAD["id_basis"].astype(float), centred)
    np.testing.assert_allclose(shift, same, rtol=1e-3, atol=5.0)


def test_the_head_of_a_body(tmp_path, rng):
    path = save(tmp_path / "body.npz", body(rng))
    head = read_head(path)
    assert len(head["v_mean"]) == COUNT
    np.testing.assert_allclose(distances(head["v_mean"]), distances(HEAD["v_mean"]), atol=2e-3)

    # Faces keep their orientation: areas weighted by normals give the same volume.
    def volume(vertices, faces):
        a, b, c = np.moveaxis(np.asarray(vertices, float)[np.asarray(faces, int)], 1, 0)
        return np.sum(a * np.cross(b, c)) / 6

    inside = [volume(h["v_mean"], h["faces"]) for h in (head, HEAD)]
    assert abs(inside[0] / inside[1] - 1) < 1e-3 and inside[1] > 0
    names = list(head["expr_names"])
    assert "tongueOut" not in names and "eyeBlink_L" in names and len(names) == 12
    # Carried along, or apart: no mode of the head. Six remain at most, largest first.
    modes = head["id_basis"].astype(float)
    assert 4 <= len(modes) <= 6
    skin = np.isin(head["part_names"][head["face_part"]], ("face", "head_neck"))
    flat = modes[:, np.unique(head["faces"][skin])].reshape(len(modes), -1)
    size = np.linalg.norm(flat, axis=1)
    assert (np.diff(size) <= 1e-3 * size[0]).all()
    assert np.abs(modes.mean(1)).max() < 0.3  # no translation left
    model = load_face_model(path)
    marks = np.asarray(model.landmark_points(model.mean))
    corners = HEAD["v_mean"][HEAD["faces"][barycentric()["landmarks68_face"]]].mean(1)
    np.testing.assert_allclose(distances(marks), distances(corners), atol=2e-3)
    full = load_face_model(path, None)
    lips = full.mean[read_head(path)["mask_lips"][kept_vertices(path, None)] > 0]
    assert len(lips) == (HEAD["mask_lips"] > 0).sum()


@pytest.mark.parametrize("layout", ["face only", "modes of expression", "body"])
def test_every_layout_trains_and_renders(layout, tmp_path, rng):
    """Sampling, colours and pictures need nothing that a layout may lack."""
    arrays = {
        "face only": plain,
        "modes of expression": lambda: plain(
            **barycentric(), expr_basis=rng.normal(0, 1, (4, COUNT, 3))
        ),
        "body": lambda: body(rng),
    }[layout]()
    path = save(tmp_path / "model.npz", arrays)
    model = load_face_model(path)
    config = head_points.SampleConfig(heads=2, surface=64, volume=32)
    sampler = head_points.make_sampler(model, config, 5)
    batch = jax.jit(lambda k: head_points.sample_heads(sampler, config, k))(jax.random.key(0))
    assert all(np.isfinite(value).all() for value in batch.values())
    assert batch["z_exp"].shape == (2, len(model.expression_names))
    if layout == "modes of expression":
        assert np.asarray(batch["z_exp"]).min() < 0  # normal, not in [0, 1]
    points = np.asarray(batch["points"]).reshape(-1, 3)
    assert (np.abs(points) <= 1.1).all()
    marks = head_points.landmark_points(sampler, sampler.mean)
    expected = model.landmark_points(model.mean)
    scaled = (np.asarray(expected) - head_points.HEAD_CENTRE_MM) / head_points.HEAD_SCALE_MM
    np.testing.assert_allclose(marks, scaled, atol=1e-5)
    surface = procedural_albedo.albedo_surface(path)
    assert all(len(v) == COUNT for v in surface.values())
    assert float(surface["lips"].max()) > 0.3 and float(surface["scalp"].max()) > 0.3
    head = prepare_head(path, modes=3)
    assert head.model.identity.shape[0] == 3 and len(head.around) in (COUNT, COUNT + 1)


def test_names_of_sides():
    for given, wanted in {
        "eyeBlinkLeft": "eyeBlink_L",
        "eyeLookInRight": "eyeLookIn_R",
        "jawLeft": "jawLeft",
        "mouthRight": "mouthRight",
        "mouthSmileLeft": "mouthSmile_L",
        "browDown_L": "browDown_L",
        "Left": "Left",
    }.items():
        assert sided_name(given) == wanted


BAD = {
    "no landmarks": plain(landmarks68=None),
    "landmarks of faces without weights": plain(landmarks68=None, landmarks68_face=np.arange(68)),
    "weights that are none": plain(**(barycentric() | {"landmarks68_bary": np.ones((68, 3))})),
    "a unit of old": plain(unit=np.array("inches")),
    "a frame of nowhere": plain(frame=np.array("camera")),
    "units in a list": plain(unit=np.array(["metres"])),
    "parts without names": plain(face_part=HEAD["face_part"]),
    "a part beyond the names": plain(face_part=HEAD["face_part"], part_names=np.array(["face"])),
    "indices alone": plain(expr_idx=HEAD["expr_idx"]),
    "a name too many": plain(expr_basis=np.ones((1, COUNT, 3)), expr_names=np.array(["a", "b"])),
    "expressions of another mesh": plain(expr_basis=np.ones((1, COUNT - 1, 3))),
    "a mask of another mesh": plain(mask_lips=np.zeros(COUNT + 1)),
    "a mask of words": plain(mask_lips=np.full(COUNT, "a")),
    "no head in the body": {k: v for k, v in body(np.random.default_rng(0)).items() if k[0] != "h"},
    "a body without head": body(np.random.default_rng(0))
    | {"head_faces": np.zeros(30 + len(HEAD["faces"]), bool)},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_files(case, tmp_path):
    with pytest.raises(InputError, match=r"bad\.npz") as caught:
        load_face_model(save(tmp_path / "bad.npz", BAD[case]))
    assert caught.value.expected and caught.value.remedy
