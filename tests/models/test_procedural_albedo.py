"""The procedural albedo: ranges, determinism, and that every parameter does what
its name says.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.models.parametric.procedural_albedo import (
    LAYOUT,
    MASKS,
    PARAMETERS,
    albedo_surface,
    flatten,
    sample_parameters,
    surface_from_arrays,
    unflatten,
    vertex_albedo,
)

COUNT = 90


def arrays():
    """A model of 90 vertices: every mask marks its own ten, the last thirty are eye, teeth and
    gums, a cheek between.
    """
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(COUNT, 3)) * 60
    faces = np.arange(COUNT).reshape(-1, 3)
    part_names = ["face", "sclera_left", "teeth", "gums_tongue"]
    face_part = np.repeat([0, 0, 0, 0, 0, 0, 1, 1, 2, 3], 3)
    masks = {name: np.zeros(COUNT, np.uint8) for name in MASKS}
    for i, name in enumerate(("lips", "brows", "scalp", "beard", "blush", "under_eye")):
        masks[name][6 * i : 6 * i + 6] = 255
    masks["ears"][36:42] = 255
    masks["iris"][54:60] = 255
    masks["pupil"][60:63] = 255
    return mean, faces, face_part, part_names, masks


@pytest.fixture(scope="module")
def surface():
    return surface_from_arrays(*arrays())


@pytest.fixture(scope="module")
def base():
    """A plain person: no texture, no opacity, so that changes show alone."""
    zero = dict.fromkeys(
        ("mottle", "noise_melanin", "noise_haemoglobin", "scalp", "beard", "brows", "blush"), 0.0
    )
    named = unflatten(jax.jit(sample_parameters)(jax.random.key(3)))
    values = {n: jnp.full_like(getattr(named, n), v) for n, v in zero.items()}
    return dataclasses.replace(named, melanin=jnp.asarray([0.2]), **values)


def test_layout_round_trip(key):
    flat = jax.jit(sample_parameters)(key)
    assert flat.shape == (PARAMETERS,) and sum(n for _, n in LAYOUT) == PARAMETERS
    np.testing.assert_array_equal(flatten(unflatten(flat)), flat)
    with pytest.raises(InputError, match="length 7"):
        unflatten(np.zeros(7))


def test_many_people_are_in_range_and_differ(key, surface):
    keys = jax.random.split(key, 200)
    sample = jax.jit(jax.vmap(sample_parameters))
    parameters = sample(keys)
    albedo = np.asarray(jax.jit(jax.vmap(vertex_albedo, (0, None)))(parameters, surface))
    assert albedo.shape == (200, COUNT, 3) and np.isfinite(albedo).all()
    assert albedo.min() >= 0 and albedo.max() <= 1
    skin = albedo[:, 42:54].mean((1, 2))
    assert skin.min() < 0.3 and skin.max() > 0.75  # very dark to very light
    red, blue = albedo[:, 42:54, 0].mean(1), albedo[:, 42:54, 2].mean(1)
    assert (red > blue).all()
    alone = jax.jit(vertex_albedo)(parameters[5], surface)
    np.testing.assert_allclose(albedo[5], alone, atol=1e-5)
    np.testing.assert_array_equal(parameters, sample(keys))


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("brows", "brows"),
        ("scalp", "scalp"),
        ("beard", "beard"),
        ("blush", "blush"),
        ("under_eye", "under_eye"),
    ],
)
def test_a_strength_colours_its_mask_only(surface, base, name, mask):
    low = dataclasses.replace(base, **{name: jnp.asarray([0.0])})
    high = dataclasses.replace(base, **{name: jnp.asarray([0.9])})
    albedo = jax.jit(vertex_albedo)
    change = np.abs(albedo(flatten(high), surface) - albedo(flatten(low), surface)).max(1)
    inside = np.asarray(surface[mask]) > 0
    assert inside.sum() == 6 and (change[inside] > 0.02).all()
    assert (change[~inside] == 0).all()


def test_parts_have_their_colours(surface, base):
    albedo = np.asarray(vertex_albedo(flatten(base), surface))
    lips, skin = albedo[:6].mean(0), albedo[42:54].mean(0)
    assert lips[1] / lips[0] < skin[1] / skin[0]  # redder
    iris = np.asarray(base.iris)
    assert np.abs(albedo[54:60].mean(0) - iris).max() < 0.1
    assert albedo[60:63].max() < 0.1
    assert albedo[63:72].min() > 0.8
    assert albedo[72:81].min() > 0.7 and albedo[81:90, 1].max() < 0.4


def test_darker_with_melanin(surface, base):
    tones = [
        np.asarray(
            vertex_albedo(flatten(dataclasses.replace(base, melanin=jnp.asarray([m]))), surface)
        )
        for m in (0.0, 0.5, 1.0)
    ]
    means = [t[42:54].mean() for t in tones]
    assert means[0] > means[1] + 0.1 > means[2] + 0.2


def test_surface_file_and_bad_files(tmp_path):
    mean, faces, face_part, part_names, masks = arrays()
    full = {
        "v_mean": mean,
        "faces": faces,
        "face_part": face_part,
        "part_names": np.array(part_names),
        "id_basis": np.zeros((1, *mean.shape), np.float32),
        "landmarks68": np.arange(68) % len(mean),
        **{f"mask_{k}": v for k, v in masks.items()},
    }
    np.savez(tmp_path / "model.npz", **full)
    got = albedo_surface(tmp_path / "model.npz")
    np.testing.assert_array_equal(got["lips"], masks["lips"] / 255)
    assert abs(float(got["noise"].std()) - 1) < 0.5
    full.pop("mask_lips")
    np.savez(tmp_path / "less.npz", **full)
    with pytest.raises(InputError, match="mask_lips"):
        albedo_surface(tmp_path / "less.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.npz"):
        albedo_surface(tmp_path / "junk.npz")
