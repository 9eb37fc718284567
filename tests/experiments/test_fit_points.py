"""Measurements on unseen people of the synthetic head, and the linear model as a baseline."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import head_points
from data_pipelines.synthetic_head import sphere, write_synthetic_head
from experiments.implicit_deformation import (
    components,
    evaluate,
    fit_points,
    linear_model,
    people,
    surface_error,
)
from jaxrecon.fitting import latents
from jaxrecon.fitting.problem import FieldFunctions
from jaxrecon.geometry.distances import SurfaceTree
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.pipelines import priors
from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.types import Mesh
from tests.fitting import linear_space as cameras_of

IDENTITIES, EXPRESSIONS = 5, 14


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_synthetic_head(tmp_path_factory.mktemp("model") / "head.npz")


@pytest.fixture(scope="module")
def face(model):
    return load_face_model(model)


def condition(params, z_id, z_exp):
    return {"centre": params["centre"], "axes": params["axes"] * (1.0 + 0.05 * z_id[:3])}


def level_set(conditioning, points):
    shape = (1,) * (points.ndim - 1) + (3,)
    centre, axes = (conditioning[n].reshape(shape) for n in ("centre", "axes"))
    return (jnp.sqrt(jnp.sum(((points - centre) / axes) ** 2, axis=-1) + 1e-9) - 1.0) * 0.6


@dataclasses.dataclass(frozen=True)
class Ellipsoids(priors.Prior):
    """A prior without networks: ellipsoids whose axes follow the first three modes."""

    @property
    def functions(self):
        return FUNCTIONS


def _unused(*_):
    raise AssertionError("colours are not measured")


FUNCTIONS = FieldFunctions(condition, level_set, _unused, _unused, _unused)


@pytest.fixture(scope="module")
def prior(face):
    """Ellipsoids about the size of the head."""
    sampler = head_points.make_sampler(face, head_points.SampleConfig(), IDENTITIES)
    low, high = np.asarray(sampler.mean).min(0), np.asarray(sampler.mean).max(0)
    params = {"centre": jnp.asarray((low + high) / 2), "axes": jnp.asarray((high - low) / 2)}
    config = dataclasses.replace(networks.PRESETS["tiny"], id_dim=IDENTITIES, exp_dim=EXPRESSIONS)
    space = linear_model.linear_space(face, IDENTITIES)
    header = {"training": {"codes": "coefficients"}}
    return Ellipsoids(config, params, space, 150.0, header)


@pytest.fixture
def command(monkeypatch, prior, model, tmp_path, capsys):
    """Runs the command with small sizes: (exit code, JSON, printed text, errors)."""

    def run(**changes):
        monkeypatch.setattr(fit_points, "load_prior", lambda _: prior)
        sizes = {"people": 2, "points": 200, "measured": 500, "steps": 4, "resolution": 32}
        out = tmp_path / "numbers.json"
        arguments: dict[str, Any] = {"model": model, "out": out} | sizes | changes
        code = fit_points.main(people.Arguments(**arguments))
        text = capsys.readouterr()
        stored = json.loads(out.read_text()) if code == 0 else None
        return code, stored, text.out, text.err

    return run


def test_the_command_measures_meshes_fields_and_the_mean_head(command, prior, face, model):
    code, numbers, text, progress = command()
    assert code == 0 and "person 2/2" in progress
    assert json.loads(text.splitlines()[-1]) == numbers
    rows = numbers["rows"]
    assert set(rows) == {"field", "field, known codes", "mesh", "mean head"}
    assert 0 <= numbers["lost"] <= 4 and numbers["parts_max"] == 1
    for row in rows.values():
        assert set(row) == {"head", "head_seen", "face", "face_seen"}
        for values in row.values():
            assert 0 < values["median_mm"] < values["p95_mm"] < 100
            assert -1 <= values["normal_cosine"] <= 1
    assert 0 < numbers["mesh_to_truth"]["face"]["median_mm"] < 50
    # The baseline, measured by hand.
    sampler = people.make_sampler(prior, face)
    tree = SurfaceTree(sampler.mean, face.faces)
    arguments = people.Arguments(model=model, points=200, measured=500)
    drawn = [people.draw_person(arguments, face, sampler, 150.0, n) for n in (0, 1)]
    expected = [150 * tree.closest(t.points)[0] for p in drawn for t in p.truths]
    np.testing.assert_allclose(rows["mean head"]["head"]["mean_mm"], np.mean(expected), rtol=1e-4)
    # The mesh is the field's surface.
    assert rows["mesh"]["head"]["mean_mm"] < 1.3 * rows["field"]["head"]["mean_mm"]


def test_components_are_compared(command, face):
    code, numbers, text, _ = command(components="1,5", people=1)
    assert code == 0 and "96 % of the model's variance" in text
    one, five = numbers["components"]
    assert (one["components"], five["components"]) == (1, 5)
    assert one["fit"] != five["fit"] and one["fit"]["head"]["mean_mm"] < 10
    assert one["truncation"]["head"]["mean_mm"] > five["truncation"]["head"]["mean_mm"]
    # All modes of the model are at hand: only an expression's rounding is left.
    if len(face.identity) == IDENTITIES:
        assert five["truncation"]["head"]["mean_mm"] < 1e-3
    assert components.variance_components(face, 1.0) <= len(face.identity)


def test_bad_arguments_are_refused(command, tmp_path):
    for change, message in (
        ({"components": "ten"}, "components 'ten'"),
        ({"components": "0,5"}, "components '0,5'"),
        ({"model": tmp_path / "none.npz"}, "no such file"),
    ):
        code, _, _, errors = command(**change)
        assert code == 2 and message in errors


def test_components_are_ordered_by_what_they_move(prior):
    points = np.random.default_rng(0).normal(size=(300, 3))
    points *= 0.6 / np.linalg.norm(points, axis=1, keepdims=True)
    turned = components.by_surface(prior, points)
    gram = np.asarray(turned.id_basis @ turned.id_basis.T)
    np.testing.assert_allclose(gram, np.eye(IDENTITIES), atol=1e-5)  # a rotation
    # Ellipsoids know three channels: the last two components move nothing.
    np.testing.assert_allclose(turned.id_basis[3:, :3], 0, atol=1e-3)


def test_people_are_drawn_anew_and_again_the_same(prior, face, model):
    sampler = people.make_sampler(prior, face)
    arguments = people.Arguments(model=model, points=100, measured=200)
    first, again, other = (
        people.draw_person(arguments, face, sampler, 150.0, n) for n in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.scans[0], again.scans[0])
    assert np.abs(first.identity - other.identity).max() > 0.1
    # One person, two expressions; measured points are fresh and lie on the true surface.
    assert first.scans[0].shape == (2, 100, 3)
    assert np.abs(first.expressions[0] - first.expressions[1]).max() > 0.01
    for mesh, truth, scan in zip(first.meshes, first.truths, first.scans[0], strict=True):
        tree = SurfaceTree(mesh.vertices, mesh.faces)
        assert tree.closest(truth.points)[0].max() < 1e-6
        assert tree.closest(scan.astype(float))[0].max() < 1e-6
        assert np.linalg.norm(scan[:, None] - truth.points[None], axis=2).min() > 1e-6


def test_what_is_inside_is_not_seen(rng):
    ball, faces = (np.asarray(a) for a in sphere(2))
    both = Mesh(
        np.concatenate([0.5 * ball, 0.2 * ball]), np.concatenate([faces, faces + len(ball)])
    )
    truth = surface_error.true_points(both, np.array([0, 0, 0.5]), rng, 400, 150.0)
    inner = np.linalg.norm(truth.points, axis=1) < 0.3
    np.testing.assert_array_equal(truth.seen, ~inner)
    assert 0 < inner.sum() < 400
    distances = np.linalg.norm(truth.points - [0, 0, 0.5], axis=1) * 150.0
    np.testing.assert_array_equal(truth.face, distances < 95.0)


def test_a_head_without_its_face_is_lost(rng):
    ball, faces = (np.asarray(a) for a in sphere(2))
    truth = surface_error.true_points(Mesh(0.5 * ball, faces), np.array([0, 0, 0.5]), rng, 400, 150)
    assert not fit_points.is_lost(truth, np.full(400, 9.0))
    assert fit_points.is_lost(truth, np.where(truth.face, 11.0, 0.0))
    assert not fit_points.is_lost(truth, np.where(np.arange(400) < 10, 99.0, 0.0))


def test_no_surface_is_no_mesh(prior):
    params = prior.params | {"axes": jnp.full(3, 9.0)}  # the box lies within
    codes = jnp.zeros(IDENTITIES), jnp.zeros(EXPRESSIONS)
    assert fit_points.extract_head(FUNCTIONS, params, *codes, 32) == (None, 0)


def test_mesh_errors_of_a_ball_that_is_too_large(rng):
    ball, faces = (np.asarray(a) for a in sphere(3))
    truth = surface_error.true_points(Mesh(0.5 * ball, faces), np.zeros(3), rng, 300, 150.0)
    distance, cosine = surface_error.to_mesh(truth, Mesh(0.52 * ball, faces))
    np.testing.assert_allclose(distance, 0.02, rtol=0.03)
    assert cosine.min() > 0.98
    numbers = surface_error.statistics(distance, cosine)
    np.testing.assert_allclose(numbers["mean_mm"], distance.mean())


def test_the_linear_model_finds_its_own_head(face):
    """Exact landmarks of a head of the model give that head, in the cameras' world."""
    baseline = linear_model.LinearBaseline(face, linear_model.linear_space(face))
    rng = np.random.default_rng(3)
    w_id = 0.7 * rng.standard_normal(baseline.space.id_basis.shape[0])
    exact = jax.tree.map(np.asarray, baseline.space)
    w_exp = 0.3 * rng.standard_normal((1, exact.exp_basis.shape[0]))
    data, truth = cameras_of.view_data(exact, (-0.6, 0.0, 0.6), w_id, w_exp)
    mesh, error = linear_model.fit_linear_model(baseline, data, 1)
    assert error < 0.5
    z_exp = exact.exp_mean + w_exp[0] @ exact.exp_basis
    head = np.asarray(face.vertices(np.float32(w_id), np.float32(z_exp)), np.float64)
    similarity = head_points.head_similarity()
    canonical = similarity.scale * head + similarity.t
    world = cameras_of.UNIT * canonical @ truth["R"].T + truth["t"]
    found = np.linalg.norm(mesh.vertices - world, axis=1)[np.asarray(face.landmarks)]
    mean = np.linalg.norm(
        np.asarray(face.mean)[np.asarray(face.landmarks)] - head[np.asarray(face.landmarks)], axis=1
    )
    assert found.mean() < 1.5 and found.mean() < 0.25 * mean.mean()


def test_landmarks_of_the_linear_space_are_the_models_own(face):
    space = linear_model.linear_space(face)
    rng = np.random.default_rng(0)
    identity = rng.standard_normal(len(face.identity)).astype(np.float32)
    expression = rng.uniform(size=len(face.expression)).astype(np.float32)
    marks = latents.landmarks(space, jnp.asarray(identity), jnp.asarray(expression)[None])[0]
    similarity = head_points.head_similarity()
    vertices = np.asarray(face.vertices(identity, expression))
    expected = similarity.scale * vertices[np.asarray(face.landmarks)] + similarity.t
    np.testing.assert_allclose(marks, expected, atol=1e-5)


def test_the_table_prints_both_ratios_also_where_the_baseline_wins():
    record = functools.partial(dict, row="full", median=0.1, p90=0.2, raw_mean=0.3, seconds=1.0)
    table = [
        record(subject="a", mean=0.5, mean_head=1.0, linear_model=0.4),
        record(subject="b", mean=0.6, mean_head=2.0, linear_model=1.2),
    ]
    assert "0.500      1.250" in evaluate._line(table[0])
    (line,) = evaluate.summary(table)
    assert "ratio to the mean head: median 0.400, largest 0.500" in line
    assert "ratio to the linear model: median 0.875, largest 1.250" in line
    bare = [r | {"mean_head": None, "linear_model": None} for r in table]
    assert "ratio" not in evaluate.summary(bare)[0] and "nan" in evaluate._line(bare[0])


def test_the_inside_is_not_seen_through_an_open_rim():
    """A ball in a bowl whose rim points down: without the fan the ball shows from below."""
    trimesh = pytest.importorskip("trimesh")
    bowl = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    bowl.update_faces(bowl.triangles_center[:, 1] > -0.3)
    bowl.remove_unreferenced_vertices()
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.2)
    both = trimesh.util.concatenate([bowl, ball])
    mesh = Mesh(np.asarray(both.vertices, np.float64), np.asarray(both.faces, np.int64))
    closed = surface_error.close_rims(mesh)
    assert len(closed.vertices) == len(mesh.vertices) + 1
    truth = surface_error.true_points(
        mesh, np.zeros(3), np.random.default_rng(0), 2000, unit_mm=150.0
    )
    inside = np.linalg.norm(truth.points, axis=1) < 0.4
    assert inside.any() and not truth.seen[inside].any()
    assert truth.seen[~inside].all()
