"""Rendered heads: necks, labels, hair, backgrounds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from data_pipelines.morphable_heads.loader import decode_png
from data_pipelines.synthetic_head import BROW, EYE, MOUTH, NOSE, synthetic_head
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face_masks import masks_from_landmarks
from tests.data_pipelines.cut_head import write_cut_head

SIZE = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_cut_head(tmp_path_factory.mktemp("model") / "cut.npz")


@pytest.fixture(scope="module")
def head(model):
    return prepare_head(model)


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


def test_the_shared_model_makes_a_person(shared):
    path = str(shared / "data" / "ict_head.npz")
    config = HeadsConfig(path, views=1, size=SIZE, supersampling=1, modes=20, azimuth=5.0)
    studio = Studio(config)
    assert len(studio.head.loop) == 54 and studio.head.model.identity.shape[0] == 20
    example = studio.example("train", 0)
    labels = decode_png(example["parsing"][0])
    assert {SKIN, LIPS, BROWS, NECK} <= set(np.unique(labels).tolist())
    assert example["visible"].mean() > 0.6
