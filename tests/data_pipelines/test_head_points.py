"""Points sampled from a head model: on the surface, outward, with honest distances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import head_points
from data_pipelines.head_points import HEAD_CENTRE_MM, HEAD_SCALE_MM, SampleConfig
from data_pipelines.synthetic_head import sphere, write_synthetic_head
from jaxrecon.geometry.distances import point_to_surface
from jaxrecon.models.parametric.face import LinearFaceModel, load_face_model
from jaxrecon.types import Mesh

CONFIG = SampleConfig(heads=3, surface=600, volume=400)
RADIUS = 100.0 / HEAD_SCALE_MM


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_face_model(write_synthetic_head(tmp_path_factory.mktemp("m") / "head.npz"))


@pytest.fixture(scope="module")
def sampler(model):
    return head_points.make_sampler(model, CONFIG)


@pytest.fixture(scope="module")
def batch(sampler):
    return jax.device_get(sample(sampler, jax.random.key(1)))


@jax.jit
def sample(sampler, key):
    return head_points.sample_heads(sampler, CONFIG, key)


@pytest.fixture(scope="module")
def ball():
    """A sphere of 100 mm about the head's centre, sampled without identity or expression."""
    v, f = sphere(4)
    vertices = np.float32(100.0 * v + HEAD_CENTRE_MM)
    model = LinearFaceModel(
        mean=vertices,
        identity=np.zeros((1, *v.shape), np.float32),
        expression=np.zeros((1, *v.shape), np.float32),
        faces=np.int32(f),
        landmarks=np.zeros(68, np.int32),
        expression_names=("jawOpen",),
    )
    return jax.device_get(sample(head_points.make_sampler(model, CONFIG), jax.random.key(2)))


def test_shapes(batch, model):
    shapes = {k: v.shape for k, v in batch.items()}
    assert shapes == {
        "z_id": (3, model.identity.shape[0]),
        "z_exp": (3, len(model.expression_names)),
        "points": (3, 600, 3),
        "normals": (3, 600, 3),
        "reference_points": (3, 600, 3),
        "uniform": (3, 400, 3),
        "distance": (3, 400),
        "distance_tolerance": (3, 400),
    }
    assert all(np.isfinite(v).all() for v in batch.values())


def test_codes_reproduce_the_surface_that_was_sampled(batch, model):
    """Through the model in millimetres: points lie on it, and reference points on the mean."""
    S = head_points.head_similarity()
    faces = np.int64(model.faces)
    for i in range(3):
        vertices = np.asarray(model.vertices(batch["z_id"][i], batch["z_exp"][i]), np.float64)
        vertices = S.scale * vertices + S.t
        distance, _, face = point_to_surface(np.float64(batch["points"][i]), Mesh(vertices, faces))
        assert distance.max() < 1e-5
        corners = vertices[faces[face]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        cosine = (normal * batch["normals"][i]).sum(1)
        assert np.quantile(cosine, 0.02) > 0.999  # points on an edge belong to either face
        mean = S.scale * np.float64(model.mean) + S.t
        on_mean = point_to_surface(np.float64(batch["reference_points"][i]), Mesh(mean, faces))[0]
        assert on_mean.max() < 1e-5
        assert np.abs(batch["points"][i] - batch["reference_points"][i]).max() > 1e-3


def test_points_and_normals_of_a_ball(ball):
    for points, normals in zip(ball["points"], ball["normals"], strict=True):
        radius = np.linalg.norm(points, axis=1)
        assert (radius < RADIUS + 1e-6).all() and (radius > 0.995 * RADIUS).all()
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, rtol=1e-5)
        assert ((points / radius[:, None] * normals).sum(1) > 0.99).all()
        # everywhere, though denser near the nose (the landmarks' vertex 0)
        assert np.linalg.norm(points.mean(0)) > 0.05
        octants = np.bincount((points > 0) @ [1, 2, 4], minlength=8)
        assert (octants > 10).all()


def test_estimated_distances_of_a_ball(ball):
    true = np.linalg.norm(ball["uniform"], axis=-1) - RADIUS
    known = ball["distance_tolerance"] < 1e3
    assert 0.5 < known.mean() < 1.0 and known[np.abs(true) > 0.15].mean() > 0.9
    # right to within the tolerance that goes with them, so that a perfect network has no loss
    wrong = np.abs(ball["distance"] - true)[known]
    assert (wrong <= ball["distance_tolerance"][known]).mean() > 0.995
    assert (np.sign(ball["distance"]) == np.sign(true))[known].mean() > 0.999
    # uniform in the box, and near the surface
    near = np.abs(true[:, 200:])
    assert np.abs(ball["uniform"]).max() <= 1 and np.median(near) < 0.06
    assert np.abs(ball["uniform"][:, :200].mean()) < 0.08
    np.testing.assert_allclose(ball["uniform"][:, :200].std(), np.sqrt(1 / 3), rtol=0.08)


def test_expressions_are_plausible(sampler, model):
    many = functools.partial(head_points.sample_expression, sampler)
    draw = jax.jit(jax.vmap(many, in_axes=(0, None)))
    keys = jax.random.split(jax.random.key(0), 4000)
    weights = np.asarray(draw(keys, 0.15))
    names = list(model.expression_names)
    assert weights.min() >= 0 and weights.max() <= 1
    opening, closing = (weights[:, names.index(n)] for n in ("jawOpen", "mouthClose"))
    assert (closing <= opening + 1e-6).all() and closing.max() > 0.3
    left, right = (weights[:, names.index(f"mouthSmile_{s}")] for s in "LR")
    assert np.corrcoef(left, right)[0, 1] > 0.7 and np.abs(left - right).max() > 0.05
    other = weights[:, names.index("browDown_L")]
    assert abs(np.corrcoef(left, other)[0, 1]) < 0.35
    # the neutral share is what is asked for, whatever the rate of active shapes
    for share in (0.0, 0.5, 1.0):
        calm = np.asarray(draw(keys, share)).max(1) <= 0.1 + 1e-6
        floor = (np.asarray(draw(keys, 0.0)).max(1) <= 0.1).mean()
        assert abs(calm.mean() - (share + (1 - share) * floor)) < 0.04


def test_people_and_seeds_differ_and_repeat(sampler, batch):
    again = sample(sampler, jax.random.key(1))
    for name, value in batch.items():
        np.testing.assert_array_equal(again[name], value)
    assert not np.array_equal(batch["z_id"][0], batch["z_id"][1])
    assert np.abs(batch["z_id"]).max() <= CONFIG.identity_clip


def test_what_lies_outside_the_box_is_not_sampled(model):
    low = dataclasses.replace(model, mean=model.mean - np.float32([0, 90, 0]))
    sampler = head_points.make_sampler(low, CONFIG)
    assert (np.asarray(sampler.mean)[:, 1] < -1.2).any()
    triangles, bary = jax.jit(head_points.draw_triangles, static_argnums=2)(
        sampler, jax.random.key(0), 500
    )
    points = jnp.einsum("nc,ncx->nx", bary, sampler.mean[triangles])
    assert points[:, 1].min() > -1.1
    np.testing.assert_allclose(bary.sum(1), 1.0, rtol=1e-5)
    assert bary.min() >= -1e-6


def test_fewer_identities_cut_the_basis(model):
    sampler = head_points.make_sampler(model, CONFIG, identities=2)
    assert sampler.identities == 2
    assert sampler.basis.shape[0] == 2 + len(model.expression_names)


def test_hidden_surface_is_drawn_only_on_request():
    outer, faces = sphere(3)
    inner, _ = sphere(3)
    count = len(outer)
    vertices = np.float32(np.concatenate([100.0 * outer, 50.0 * inner]) + HEAD_CENTRE_MM)
    model = LinearFaceModel(
        mean=vertices,
        identity=np.zeros((1, *vertices.shape), np.float32),
        expression=np.zeros((1, *vertices.shape), np.float32),
        faces=np.int32(np.concatenate([faces, faces + count])),
        landmarks=np.zeros(68, np.int32),
        expression_names=("jawOpen",),
    )
    inside = {}
    for hidden in (False, True):
        config = dataclasses.replace(CONFIG, hidden=hidden)
        drawn = sample(head_points.make_sampler(model, config), jax.random.key(2))
        radius = np.linalg.norm(np.asarray(drawn["points"]), axis=-1)
        inside[hidden] = np.mean(radius < 0.75 * RADIUS)
    assert inside[False] == 0.0
    assert abs(inside[True] - 0.2) < 0.03  # a fifth of the area


def test_features_are_drawn_more_densely(model):
    def share(density):
        config = dataclasses.replace(CONFIG, feature_density=density)
        sampler = head_points.make_sampler(model, config)
        points = np.asarray(sample(sampler, jax.random.key(3))["reference_points"]).reshape(-1, 3)
        marks = np.asarray(sampler.mean)[np.asarray(sampler.landmarks)[36:]]
        away = np.linalg.norm(points[:, None] - marks[None], axis=2).min(1)
        return np.mean(away < 11.0 / HEAD_SCALE_MM)

    plain, dense = share(1.0), share(4.0)
    assert abs(dense / (1 - dense) / (plain / (1 - plain)) - 4.0) < 1.0


def test_points_just_below_the_skin_are_inside_at_known_depths(ball):
    quarter = CONFIG.volume // 4
    inner = ball["uniform"][:, -quarter:]
    depth = RADIUS - np.linalg.norm(inner, axis=-1)
    assert (depth > 0.4 / HEAD_SCALE_MM).all() and (depth < 2.2 / HEAD_SCALE_MM).all()
    given = -ball["distance"][:, -quarter:]
    # The triangles lie up to 0.15 mm below the sphere.
    assert np.abs(given - depth).max() < 0.2 / HEAD_SCALE_MM
    np.testing.assert_allclose(ball["distance_tolerance"][:, -quarter:], 0.3 * given, rtol=1e-5)
