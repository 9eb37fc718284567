"""Coloured points: colours are colours, cameras see the points, codes are standardised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import head_colours, head_points
from data_pipelines.head_points import SampleConfig
from data_pipelines.synthetic_head import write_synthetic_head
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.models.parametric.face import load_face_model

CONFIG = SampleConfig(heads=3, surface=500)


@pytest.fixture(scope="module")
def samplers(tmp_path_factory):
    path = write_synthetic_head(tmp_path_factory.mktemp("m") / "head.npz")
    model = load_face_model(path)
    return head_points.make_sampler(model, CONFIG), head_colours.make_colour_sampler(path)


@jax.jit
def sample(samplers, key):
    return head_colours.sample_colours(*samplers, CONFIG, key)


@pytest.fixture(scope="module")
def batch(samplers):
    return jax.device_get(sample(samplers, jax.random.key(1)))


def test_colours_and_views(batch):
    assert batch["colours"].shape == batch["views"].shape == (3, 500, 3)
    assert batch["colours"].min() >= 0 and batch["colours"].max() <= 1
    assert batch["colours"].std(axis=(0, 1)).min() > 0.02
    np.testing.assert_allclose(np.linalg.norm(batch["views"], axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(batch["normals"], axis=-1), 1.0, rtol=1e-5)
    # views run from the camera to the point: against the outward normal
    assert ((batch["views"] * batch["normals"]).sum(-1) <= 1e-5).all()
    # most points are seen from one camera of theirs, in front
    for views in batch["views"]:
        _, counts = np.unique(views.round(4), axis=0, return_counts=True)
        assert counts.max() > 100


def test_codes_are_standardised_and_decode(samplers, batch):
    draw = jax.jit(jax.vmap(head_colours.draw_parameters))
    parameters = draw(jax.random.split(jax.random.key(9), 3000))
    codes = np.asarray(head_colours.standardise(samplers[1], parameters))
    assert np.abs(codes.mean(0)).max() < 0.12
    assert (codes.std(0) > 0.5).all() and (codes.std(0) < 1.15).all()
    colours = samplers[1]
    decoded = batch["z_colour"] * np.asarray(colours.deviation) + np.asarray(colours.mean)
    melanin = decoded[:, 0]
    assert ((melanin > -1e-3) & (melanin < 1 + 1e-3)).all()
    np.testing.assert_allclose(
        head_colours.standardise(colours, jnp.asarray(decoded)), batch["z_colour"], atol=1e-3
    )


def test_points_show_the_albedo_under_their_light(samplers):
    """White, even light shows the vertices' albedo; no light shows none."""
    sampler, colours = samplers
    split = procedural_albedo.PARAMETERS
    parameters = jax.jit(head_colours.draw_parameters)(jax.random.key(4))
    even = jnp.zeros((9, 3)).at[0].set(1.0 / 0.282095)  # the constant harmonic: shading 1

    @jax.jit
    def points(lighting):
        given = jnp.concatenate([parameters[:split], lighting.ravel()])
        return head_colours.colour_points(
            sampler, colours, CONFIG, jax.random.key(5), sampler.mean, given
        )

    lit, dark = points(even), points(0.0 * even)
    vertex_albedo = jax.jit(procedural_albedo.vertex_albedo)
    albedo = np.asarray(vertex_albedo(parameters[:split], colours.surface))
    mean = np.asarray(sampler.mean)
    nearest = np.linalg.norm(np.asarray(lit["points"])[:, None] - mean[None], axis=-1).argmin(1)
    near = np.linalg.norm(np.asarray(lit["points"]) - mean[nearest], axis=1) < 0.012
    assert near.sum() > 20
    error = np.abs(np.asarray(lit["colours"]) - albedo[nearest])[near]
    assert np.median(error) < 0.02
    assert np.asarray(dark["colours"]).max() < 0.06
    np.testing.assert_array_equal(lit["points"], dark["points"])
