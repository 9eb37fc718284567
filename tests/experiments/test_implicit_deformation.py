"""The head prior end to end on the synthetic head: train, interrupt, resume, release, load; with
known coefficients as codes, and in the paper's structure with all codes learned.
"""

import contextlib
import dataclasses
import functools
import json
import os
import signal

import jax
import numpy as np
import pytest
from safetensors import safe_open

from data_pipelines import head_colours, head_points
from data_pipelines.head_points import SampleConfig
from data_pipelines.synthetic_head import write_synthetic_head
from experiments.implicit_deformation import objectives, release, train
from experiments.implicit_deformation.batches import code_table, rendering_batch
from experiments.implicit_deformation.config import PRESETS, Stage, TrainConfig
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import config_from_dict, load_weights
from jaxrecon.models.layers import Encoding
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.pipelines.implicit_deformation import load_prior
from jaxrecon.training import loop


def _small(preset: str, **changes) -> TrainConfig:
    """A preset with tiny networks, batches and step counts; its structure stays."""
    config = PRESETS[preset]
    network = dataclasses.replace(
        config.network,
        id_dim=5, exp_dim=14, colour_dim=8, features=4,
        reference_hidden=(16, 16), deformation_hidden=(16,), rendering_hidden=(16,),
        encoding=Encoding(bands=2, include_input=config.network.encoding.include_input, scale=1.57),
    )  # fmt: skip

    def stage(old: Stage, steps: int, heads: int) -> Stage:
        sample = SampleConfig(heads=heads, surface=64, volume=32)
        return dataclasses.replace(old, steps=steps, sample=sample, rate=max(old.rate, 1e-3))

    return dataclasses.replace(
        config,
        network=network,
        reference=stage(config.reference, 60, 1),
        deformation=stage(config.deformation, 60, 2),
        rendering=stage(config.rendering, 40, 2),
        **changes,
    )


CONFIGS = {"tiny": _small("tiny"), "paper": _small("paper", identities=6, expressions=3)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_synthetic_head(tmp_path_factory.mktemp("model") / "head.npz")


@contextlib.contextmanager
def signalled(stage: str, at: int):
    """SIGTERM comes while batch `at` of a stage is drawn."""
    plain = loop.run

    def run(state, step, batches, steps, **options):
        def interrupted(start):
            for i, batch in enumerate(batches(start), start):
                if options["name"] == stage and i == at:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return plain(state, step, interrupted, steps, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run", run)
        yield


@contextlib.contextmanager
def presets():
    with pytest.MonkeyPatch.context() as patch:
        for name, config in CONFIGS.items():
            patch.setitem(PRESETS, name, config)
        patch.setattr(release, "SAMPLES", 256)
        yield


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """name -> (folder, exit codes): every preset, interrupted and resumed."""
    folders = {}
    with presets():
        for name, stage, at in (("tiny", "deformation", 20), ("paper", "rendering", 10)):
            out = tmp_path_factory.mktemp("runs") / name
            arguments = train.Arguments(model=model, out=out, preset=name, devices=1)
            with signalled(stage, at):
                first = train.main(arguments)
            folders[name] = (out, [first, train.main(arguments)])
    return folders


@pytest.fixture(scope="module")
def weights(run, model, tmp_path_factory):
    """name -> path of released weights."""
    paths = {}
    with presets():
        for name, (folder, _) in run.items():
            paths[name] = tmp_path_factory.mktemp("weights") / name
            arguments = release.Arguments(model=model, run=folder, out=paths[name])
            assert release.main(arguments) == 0
    return paths


def metrics(folder, stage):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["stage"] == stage]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_training_stops_and_resumes(run, name):
    folder, codes = run[name]
    assert codes == [130, 0]
    config = config_from_dict(TrainConfig, json.loads((folder / "config.json").read_text()))
    assert config == CONFIGS[name]
    for stage in train.STAGES:
        steps = getattr(config, stage).steps
        logged = metrics(folder, stage)
        assert logged[-1]["step"] == steps and all(line["skipped"] == 0 for line in logged)
        assert (folder / stage / str(steps)).is_dir()


def test_interruption_leaves_no_trace(run, model, tmp_path):
    parameters = {}
    for name, folder in (("interrupted", run["tiny"][0]), ("straight", tmp_path)):
        machine = train.Machine(devices=1)
        parameters[name], finished = train.train(CONFIGS["tiny"], model, folder, machine)
        assert finished
    straight, interrupted = parameters["straight"], parameters["interrupted"]
    jax.tree.map(np.testing.assert_array_equal, straight, interrupted)


def test_training_makes_the_surface_fit(run, model):
    """Held-out people are nearer their network's surface than those of the untrained one."""
    folder, _ = run["tiny"]
    config = CONFIGS["tiny"]
    sampler = head_points.make_sampler(load_face_model(model), SampleConfig(), 5)
    last = metrics(folder, "deformation")[-1]
    params = objectives.initial_parameters(config, sampler)
    batch = objectives.held_out_batch(config, sampler)
    before = objectives.held_out_errors(config.network, params, batch)
    assert last["held_out_mm"] < 0.7 * before["held_out_mm"]
    assert last["held_out_cosine"] > max(0.8, before["held_out_cosine"])
    colours = [line["rgb"] for line in metrics(folder, "rendering")]
    assert colours[-1] < 0.3  # mean error of a channel


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_released_weights_load_as_a_prior(weights, name):
    prior = load_prior(weights[name])
    config = CONFIGS[name]
    assert prior.config == config.network and prior.unit_mm == 150.0
    assert prior.header["steps"] == {s: getattr(config, s).steps for s in train.STAGES}
    assert set(prior.params) == {"reference", "deformation", "rendering"}
    space = prior.space
    assert space.id_basis.shape[1] == 5 and space.exp_basis.shape[1] == 14
    assert space.landmarks_mean.shape == (68, 3) and space.landmarks_exp.shape == (14, 68, 3)


def test_half_precision_halves_the_file_and_keeps_the_surface(weights, run, model, tmp_path):
    whole = load_prior(weights["tiny"])
    with presets():
        arguments = release.Arguments(
            model=model, run=run["tiny"][0], out=tmp_path / "half", dtype="float16"
        )
        assert release.main(arguments) == 0
        assert release.main(dataclasses.replace(arguments, dtype="int8")) == 2
    half = load_prior(tmp_path / "half")
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {np.dtype(np.float32)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-4, atol=1e-7),
        half.params,
        whole.params,
    )
    jax.tree.map(np.testing.assert_array_equal, half.space, whole.space)
    sampler = head_points.make_sampler(load_face_model(model), SampleConfig(), 5)
    people = objectives.held_out_batch(CONFIGS["tiny"], sampler)
    values = [
        float(objectives.held_out_errors(whole.config, p.params, people)["held_out_mm"])
        for p in (whole, half)
    ]
    np.testing.assert_allclose(values[1], values[0], rtol=0.02)
    assert values[1] != values[0]
    # Networks are most of a release of the real sizes; here the landmarks' linear map is.
    with safe_open(tmp_path / "half.safetensors", "np") as file:
        dtypes = {name: str(file.get_tensor(name).dtype) for name in file.keys()}
    assert all((d == "float16") == k.startswith("params/") for k, d in dtypes.items())


def test_landmarks_of_known_coefficients_are_the_models(weights, model):
    space, face = load_prior(weights["tiny"]).space, load_face_model(model)
    # the prior sees the first five identity modes, and all thirteen shapes
    z_id, z_exp = np.array([1.0, -2, 0.5, 1, -1]), np.linspace(0, 1, 13)
    found = (
        np.asarray(space.landmarks_mean)
        + np.einsum("i,ipx->px", z_id, space.landmarks_id)
        + np.einsum("e,epx->px", np.append(z_exp, 0.0), space.landmarks_exp)
    )
    vertices = face.vertices(np.float32(np.append(z_id, 0.0)), np.float32(z_exp))
    S = head_points.head_similarity()
    expected = S.scale * np.asarray(vertices)[face.landmarks] + S.t
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(space.id_basis, np.eye(5))
    np.testing.assert_array_equal(space.id_mean, np.zeros(5))


def test_learned_codes_are_the_tables(weights, run, model):
    """Principal components of the paper's structure are those of the codes that were learned."""
    config = CONFIGS["paper"]
    sampler = head_points.make_sampler(load_face_model(model), SampleConfig(), 5)
    params, _ = release.restore(config, run["paper"][0], sampler)
    start = code_table(config, sampler)
    space = load_prior(weights["paper"]).space
    people = np.repeat(params["codes"]["z_id"], 3, axis=0)
    for name, codes, first in (
        ("id", people, np.repeat(start["z_id"], 3, axis=0)),
        ("exp", params["codes"]["z_exp"], start["z_exp"]),
        ("colour", params["colour_codes"], start["z_colour"]),
    ):
        codes = np.float64(codes)
        assert np.abs(codes - np.float64(first)).max() > 1e-3, f"{name} was not learned"
        np.testing.assert_allclose(getattr(space, f"{name}_mean"), codes.mean(0), atol=1e-6)
        basis = np.float64(getattr(space, f"{name}_basis"))
        covariance = np.cov(codes.T)
        explained = np.trace(basis.T @ basis) / np.trace(covariance)
        assert 0.95 < explained < 1 + 1e-6
        # rows are eigenvectors, a standard deviation long
        np.testing.assert_allclose(
            basis @ covariance, (basis**2).sum(1, keepdims=True) * basis, atol=1e-6
        )


def test_a_person_of_the_table_keeps_face_and_colour(model):
    config = CONFIGS["paper"]
    sampler = head_points.make_sampler(load_face_model(model), SampleConfig(), 5)
    colours = head_colours.make_colour_sampler(model)
    table = code_table(config, sampler)
    again = code_table(config, sampler)
    jax.tree.map(np.testing.assert_array_equal, table, again)
    assert table["colour"].shape == (6, head_colours.COLOUR_PARAMETERS)
    draw = jax.jit(functools.partial(rendering_batch, config, sampler, colours, table))
    seen = {}
    for i in range(12):
        batch = jax.device_get(draw(jax.random.key(i)))
        for row, points, shown in zip(
            *(batch[k] for k in ("index", "points", "colours")), strict=True
        ):
            seen.setdefault(int(row) // config.expressions, []).append(shown.mean(0))
            assert points.shape == shown.shape == (64, 3)
    assert len(seen) == 6
    within = np.mean([np.std(v, axis=0).mean() for v in seen.values() if len(v) > 1])
    across = np.std([np.mean(v, axis=0) for v in seen.values()], axis=0).mean()
    assert within < 0.5 * across


def test_bad_requests_are_refused(run, weights, model, tmp_path, capsys):
    out = run["tiny"][0]
    with presets():
        cases = [
            train.Arguments(model=model, out=tmp_path, preset="huge"),
            train.Arguments(model=tmp_path / "no.npz", out=tmp_path / "a", preset="tiny"),
            train.Arguments(model=model, out=out, preset="tiny", seed=1),
        ]
        for arguments, word in zip(cases, ("huge", "no.npz", "config.json"), strict=True):
            assert train.main(arguments) == 2
            assert word in capsys.readouterr().err
        empty = release.Arguments(model=model, run=tmp_path / "none", out=tmp_path / "w")
        assert release.main(empty) == 2 and "train first" in capsys.readouterr().err
    tree, header = load_weights(weights["tiny"])
    assert header["format"] and set(tree) == {"params", "latent"}
    with pytest.raises(InputError, match="no such file"):
        load_prior(tmp_path / "absent")
    with pytest.raises(ValueError, match="codes"):
        dataclasses.replace(CONFIGS["tiny"], codes="both")


def test_steps_and_codes_can_be_chosen(model, tmp_path):
    arguments = train.Arguments(model=model, out=tmp_path, preset="tiny", codes="table", steps=0.1)
    config = train.resolve(arguments)
    assert config.codes == "table" and config.reference.steps == 20
    assert config.deformation.steps == 30
    least = train.resolve(dataclasses.replace(arguments, steps=1e-9))
    assert least.rendering.steps == 1
