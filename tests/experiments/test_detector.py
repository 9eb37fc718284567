"""Training of the detectors: losses against closed forms and differences, and a tiny run."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detector import config as configs
from experiments.detector import data, evaluate, objectives, release, train
from jaxrecon.detect.detections import Detections, Face, Person
from jaxrecon.detect.finding import Network
from jaxrecon.detect.network import (
    FIND_STRIDE,
    OFFSET,
    DetectorConfig,
    DetectorNetwork,
    Output,
)
from jaxrecon.detect.own import ASSETS, load_network
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import save_weights
from tests.models.slopes import along, central_difference, random_direction

NETWORK = DetectorConfig(points=3, labels=4, size=64, reference=20.0)


def output_of(rng, dtype=np.float32):
    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    maps = normal(2, 16, 16, 3)
    return Output(
        maps,
        32 + 5 * normal(2, 3, 2),
        normal(2, 3),
        normal(2, 3),
        normal(2, 64, 64, 4),
        normal(2, 4, 4, 4),
    )


def batch_of(rng):
    return {
        "points": jnp.asarray(rng.uniform(10, 50, (2, 3, 2))),
        "visible": jnp.asarray([[True, False, True], [True, True, False]]),
        "inside": jnp.asarray([[True, True, True], [True, False, True]]),
        "labels": jnp.asarray(rng.integers(0, 4, (2, 64, 64))),
        "centre": jnp.asarray(rng.uniform(20, 40, (2, 2))),
        "extent": jnp.asarray([20.0, 24.0]),
        "present": jnp.asarray([True, True]),
    }


@pytest.mark.parametrize("part", [*vars(configs.Weights())])
def test_gradients_of_each_part(part):
    rng = np.random.default_rng(0)
    none = dict.fromkeys(vars(configs.Weights()), 0.0)
    with jax.enable_x64(True):
        # `hidden` only weighs points: it is looked at through them.
        weights = {"hidden": 0.3, "points": 1.0} if part == "hidden" else {part: 1.0}
        weights = configs.Weights(**(none | weights))
        output, batch = output_of(rng, np.float64), batch_of(rng)

        def value(o):
            return objectives.total_loss(NETWORK, weights, o, batch)[0]

        direction = random_direction(rng, output)
        if part == "spread":  # the errors are stopped there
            direction = direction._replace(points=jnp.zeros_like(output.points))
        slope = along(jax.grad(value)(output), direction)
        assert slope == pytest.approx(central_difference(value, output, direction, 1e-6), rel=1e-5)
        assert abs(slope) > 1e-8


def test_perfect_points_cost_nothing_but_the_width_of_the_target():
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.uniform(16, 40, (2, 3, 2)), jnp.float32)
    grid = (jnp.arange(16) + 0.5) * 4
    x = -((grid[None, None] - points[..., 0, None]) ** 2) / 32
    y = -((grid[None, None] - points[..., 1, None]) ** 2) / 32
    maps = jnp.moveaxis(y[..., :, None] + x[..., None, :], 1, -1)
    rest = output_of(rng)
    output = rest._replace(maps=maps, points=points)
    ones = jnp.ones((2, 3))
    parts = objectives.point_loss(output, points, ones, ones > 0, jnp.ones(2, bool))
    # The entropy of a Gaussian of one cell in the plane is 1 + log(2 pi).
    assert float(parts["maps"]) == pytest.approx(1 + np.log(2 * np.pi), abs=0.02)
    assert float(parts["points"]) < 2e-3
    beside = points + jnp.asarray([8.0, 0.0])[None, None]
    moved = objectives.point_loss(output, beside, ones, ones > 0, jnp.ones(2, bool))
    # Two cells away: the divergence of two Gaussians is half of the squared distance.
    assert float(moved["maps"] - parts["maps"]) == pytest.approx(2.0, abs=0.1)


def test_the_best_spread_is_that_of_the_errors():
    rng = np.random.default_rng(0)
    errors = 3.0 * rng.normal(size=(2, 2000, 2))
    output = output_of(rng)._replace(
        points=jnp.asarray(errors), maps=jnp.zeros((2, 2, 2, 2000)), visible=jnp.zeros((2, 2000))
    )
    ones, zeros = jnp.ones((2, 2000)), jnp.zeros((2, 2000, 2))

    def cost(s):
        spread = output._replace(log_spread=jnp.full((2, 2000), jnp.log(s)))
        return float(objectives.point_loss(spread, zeros, ones, ones > 0, ones[:, 0] > 0)["spread"])

    costs = {s: cost(s) for s in (2.0, 2.6, 3.0, 3.4, 4.5)}
    assert min(costs, key=lambda s: costs[s]) == 3.0


def test_points_outside_and_subjects_out_of_scale_do_not_count():
    rng = np.random.default_rng(0)
    output, batch = output_of(rng), batch_of(rng)
    weights = configs.Weights(found=0.0, labels=0.0, overlap=0.0, visible=0.0)

    def value(o, **changes):
        return float(objectives.total_loss(NETWORK, weights, o, batch | changes)[0])

    moved = output._replace(points=output.points.at[1, 1].add(50.0))  # the one not inside
    assert value(moved) == pytest.approx(value(output))
    assert value(output._replace(points=output.points + 5.0)) != pytest.approx(value(output))
    far = {"extent": jnp.asarray([2.0, 200.0])}
    assert value(output, **far) == pytest.approx(0.0, abs=1e-6)


def test_labels_overlap_of_a_perfect_answer_is_one():
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(0, 3, (2, 8, 8)))  # the fourth class does not occur
    logits = 60.0 * jax.nn.one_hot(labels, 4)
    parts = objectives.label_loss(logits, labels)
    assert float(parts["overlap"]) < 1e-5 and float(parts["labels"]) < 1e-5
    wrong = objectives.label_loss(60.0 * jax.nn.one_hot((labels + 1) % 3, 4), labels)
    assert float(wrong["overlap"]) > 0.99 and float(wrong["labels"]) > 50


def test_finding_asks_the_one_cell():
    centre, extent = jnp.asarray([[37.0, 20.0]]), jnp.asarray([22.0])
    present = jnp.asarray([True])
    truth = np.full((1, 4, 4, 4), 0.0, np.float32)
    truth[..., 0] = -30.0
    middle = (np.array([2, 1]) + 0.5) * FIND_STRIDE
    truth[0, 1, 2] = [30.0, *((np.array([37.0, 20.0]) - middle) / OFFSET), np.log(22 / 20)]

    def cost(grid, **kind):
        given = {"centre": centre, "extent": extent, "present": present} | kind
        return float(objectives.find_loss(NETWORK, jnp.asarray(grid), **given))

    assert cost(truth) < 1e-6
    beside = truth.copy()
    beside[0, 1, 1, 0] = 30.0  # a neighbour: nothing is asked of it
    assert cost(beside) < 1e-6
    elsewhere = truth.copy()
    elsewhere[0, 3, 0, 0] = 30.0
    assert cost(elsewhere) > 20
    assert cost(truth, present=jnp.asarray([False])) > 20
    assert cost(truth, extent=jnp.asarray([80.0])) > 20  # too large for this scale
    # Between "in scale" and "not": nothing is asked.
    assert cost(truth, extent=jnp.asarray([20 * float(np.exp(0.6))])) < 1e-6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Eight random "faces" a split."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        (folder / split).mkdir()
        image = rng.integers(0, 255, (8, 96, 96, 4)).astype(np.uint8)
        labels = rng.integers(0, 10, (8, 96, 96)).astype(np.uint8)
        points = rng.uniform(30, 66, (8, 68, 2)).astype(np.float32)
        np.savez(
            folder / split / "000000.npz",
            image=image,
            labels=labels,
            landmarks=points,
            visible=rng.uniform(size=(8, 68)) < 0.8,
            seed=np.arange(8),
        )
    return folder


def test_a_tiny_run_trains_stops_goes_on_and_is_released(shards, tmp_path, monkeypatch):
    tiny = dataclasses.replace(configs.PRESETS["tiny"], steps=4)
    before = train.initial_state(tiny)
    whole, finished = train.train(tiny, shards, tmp_path / "whole")
    assert finished and int(whole.step) == 4

    def interrupted(*arguments):
        for i, batch in enumerate(data.batches(*arguments)):
            if i == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train, "batches", interrupted)
        state, finished = train.train(tiny, shards, tmp_path / "a")
    assert not finished and 0 < int(state.step) < 4
    state, finished = train.train(tiny, shards, tmp_path / "a")
    assert finished and int(state.step) == 4
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(a, b)
    change = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), state.params, before.params)
    assert max(jax.tree.leaves(change)) > 1e-4
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    assert any("held_out_loss" in line for line in lines)

    arguments = release.Arguments(tmp_path / "a", tmp_path / "weights", data="noise")
    header = release.release(arguments)
    assert header["training"]["steps_done"] == 4
    network = load_network("face", tmp_path / "weights")
    assert network.config == tiny.network
    with pytest.raises(InputError, match="of the kind person"):
        load_network("person", tmp_path / "weights")
    other = dataclasses.replace(tiny, steps=5)
    with pytest.raises(InputError, match="config.json: differs"):
        train.train(other, shards, tmp_path / "a")
    with pytest.raises(InputError, match="data.json: differs"):
        train.train(tiny, shards, tmp_path / "a", start=tmp_path / "weights")


def test_weights_of_fewer_blocks_start_a_network_of_more(tmp_path):
    tiny = configs.PRESETS["tiny"]
    state = train.initial_state(tiny)
    tree = {"params": dict(state.params), "batch_stats": dict(state.batch_stats)}
    save_weights(tmp_path / "weights", tree, {"system": "detector_face"})
    network = dataclasses.replace(tiny.network, blocks=(1, 1, 2, 3, 2), up_blocks=(0, 0, 2, 0))
    deeper = dataclasses.replace(tiny, network=network)
    grown = train.initial_state(deeper, tmp_path / "weights")
    added = set(grown.params) - set(state.params)
    assert added == {"level0_0", "level3_2", "up2_0", "up2_1"}
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)

    def answers(config, params, stats):
        variables = {"params": params, "batch_stats": stats}
        return jax.tree.leaves(jax.jit(DetectorNetwork(config.network).apply)(variables, images))

    before = answers(tiny, state.params, state.batch_stats)
    silent = dict(grown.params)
    for name in added:
        norm = silent[name]["norm"]
        np.testing.assert_allclose(norm["scale"], train.FIRST_SCALE)
        silent[name] = {**silent[name], "norm": {**norm, "scale": 0 * norm["scale"]}}
    for a, b in zip(answers(deeper, silent, grown.batch_stats), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # But as they start they do say something.
    after = answers(deeper, grown.params, grown.batch_stats)
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(after, before, strict=True)) > 1e-3

    with pytest.raises(InputError, match="of another network"):
        fewer = dataclasses.replace(tiny.network, blocks=(0, 1, 1, 2, 2))
        train.initial_state(dataclasses.replace(tiny, network=fewer), tmp_path / "weights")
    with pytest.raises(InputError, match="of another network"):
        train.initial_state(tiny, ASSETS / "implicit_deformation_small")


def test_batches_resume_where_they_were(shards):
    examples = data.load_split(shards / "train", "face")
    source = data.batches(examples, 4, 0, 0)
    first = [next(source) for _ in range(5)]
    again = next(data.batches(examples, 4, 0, 3))
    np.testing.assert_array_equal(first[3]["points"], again["points"])
    np.testing.assert_array_equal(
        jax.random.key_data(first[3]["key"]), jax.random.key_data(again["key"])
    )
    epoch = np.concatenate([first[0]["points"], first[1]["points"]])
    assert len(np.unique(epoch[:, 0, 0])) == 8


def test_bad_data_are_told(tmp_path, shards):
    with pytest.raises(InputError, match="no shards"):
        data.load_split(tmp_path, "face")
    with pytest.raises(InputError, match="keypoints"):
        data.load_split(shards / "train", "person")
    few = data.load_split(shards / "validation", "face", 3)
    with pytest.raises(InputError, match="at least a batch"):
        train.held_out(configs.PRESETS["tiny"], few)
    with pytest.raises(InputError, match="at least a batch"):
        next(data.batches(data.load_split(shards / "train", "face"), 9, 0, 0))


def test_overlaps_and_errors_of_the_evaluation():
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:3] = True, True
    assert evaluate.overlap(a, b) == pytest.approx(1 / 3)
    assert evaluate.overlap(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0
    truth = np.array([[0, 0, 1, 1]])
    mean, each = evaluate.mean_overlap(evaluate.confusion(np.array([[0, 1, 1, 1]]), truth, 10))
    assert each == {"background": pytest.approx(0.5), "skin": pytest.approx(2 / 3)}
    assert mean == pytest.approx(7 / 12)


# ---------------------------------------------------------------- evaluation


def a_picture():
    """What `test_pictures` gives, of a face that is a disc."""
    y, x = np.mgrid[:80, :80] + 0.5
    disc = np.hypot(x - 40, y - 44) < 20
    rng = np.random.default_rng(0)
    points = np.array([40.0, 44.0]) + rng.uniform(-12, 12, (68, 2))
    points[36], points[45] = (30.0, 40.0), (50.0, 40.0)
    return {
        "photo": np.uint8(200 * disc[..., None]).repeat(3, -1),
        "labels": np.where(disc, 1, 0),
        "points": points,
        "visible": np.arange(68) % 3 > 0,
        "centre": np.array([40.0, 44.0]),
        "extent": np.array(20.0),
    }


def seen(picture, shift, at=(0.0, 0.0)):
    """Detections that know the truth, but for a shift of the landmarks and of the box."""
    centre = picture["centre"] + np.asarray(at)
    points = np.asarray(picture["points"] + np.array([shift, 0.0]), np.float32)
    points[~picture["visible"]] = 0  # what cannot be seen does not count
    visible = picture["visible"].astype(np.float32)
    face = Face(np.concatenate([centre - 22, centre + 22]), 1.0, points, visible=visible)
    labels = picture["labels"].astype(np.uint8)
    mask = (labels > 0).astype(np.float32)
    return Detections(labels.shape, (face,), parsing=labels, mask=mask)


def measured(monkeypatch, found):
    pictures = [a_picture() for _ in found]
    answers = iter(found)
    monkeypatch.setattr(evaluate, "detect_faces", lambda network, photo: next(answers))
    network = Network(DetectorConfig(), {})
    return evaluate.measure_faces(network, pictures)


def test_the_truth_measures_as_the_truth(monkeypatch):
    numbers = measured(monkeypatch, [seen(a_picture(), 0.0)])
    assert numbers["error"] == pytest.approx(0.0, abs=1e-6) and numbers["missed"] == 0
    assert numbers["mask_iou"] == numbers["parsing_miou"] == numbers["visibility_right"] == 1.0


def test_errors_are_shares_of_the_eyes_distance_and_misses_count(monkeypatch):
    picture = a_picture()
    found = [
        seen(picture, 0.6),
        seen(picture, 1.0),
        Detections((80, 80)),
        seen(picture, 0.0, at=(15.0, 0.0)),
    ]
    numbers = measured(monkeypatch, found)
    assert numbers["missed"] == 2
    assert numbers["error"] == pytest.approx(0.04, rel=1e-4)  # 0.03 and 0.05 of 20 pixels
    assert numbers["error_2d"] == pytest.approx(0.04, rel=1e-4)
    assert numbers["within_4_percent"] == 0.25
    assert numbers["mask_iou"] == 0.5
    everything_missed = measured(monkeypatch, [Detections((80, 80))])
    assert everything_missed["error"] is None and everything_missed["missed"] == 1


def test_people_are_measured_by_their_bounds(monkeypatch):
    picture = a_picture()
    picture["points"] = picture["points"][:25]
    picture["visible"] = np.ones(25, bool)
    picture["extent"] = np.array(40.0)
    moved = picture["points"].copy()
    moved[:5] += [3.9, 0.0]
    moved[5:10] += [4.2, 0.0]  # 0.1 of the 40 pixels of the disc's bounds is 4
    person = Person(np.array([0.0, 0, 80, 80]), 1.0, moved.astype(np.float32))
    mask = (picture["labels"] > 0).astype(np.float32)
    answer = Detections((80, 80), people=(person,), mask=mask)
    monkeypatch.setattr(evaluate, "detect_person", lambda network, photo: answer)
    numbers = evaluate.measure_people(Network(DetectorConfig(), {}), [picture])
    assert numbers["pck_0.1"] == pytest.approx(20 / 25)
    assert numbers["mask_iou"] == 1.0 and numbers["missed"] == 0
    monkeypatch.setattr(evaluate, "detect_person", lambda network, photo: Detections((80, 80)))
    numbers = evaluate.measure_people(Network(DetectorConfig(), {}), [picture])
    assert (numbers["missed"], numbers["mask_iou"], numbers["pck_0.1"]) == (1, 0.0, 0.0)


def test_test_pictures_come_from_the_test_split(shards):
    arguments = evaluate.Arguments(data=shards, count=2, size=64)
    first, second = evaluate.test_pictures(arguments)
    assert first["photo"].shape == (64, 64, 3) and first["photo"].dtype == np.uint8
    assert first["present"] and np.abs(first["photo"] - second["photo"].astype(int)).max() > 50


@pytest.mark.parametrize(
    "wrong", [{"subject": "cat"}, {"subject": "person", "views": "x"}, {}, {"size": 250}]
)
def test_what_cannot_be_measured_is_told(monkeypatch, wrong, shards):
    monkeypatch.setattr(evaluate, "load_network", lambda subject, weights: None)
    given = {"data": shards} | wrong if "size" in wrong else wrong
    with pytest.raises(InputError):
        evaluate.evaluate(evaluate.Arguments(**given))
