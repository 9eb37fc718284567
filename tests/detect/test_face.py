"""The looks at a face, with a network that knows the truth, and what comes of weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.detect import face as faces
from jaxrecon.detect import own, person
from jaxrecon.detect.crops import Crop
from jaxrecon.detect.finding import Candidate, Network
from jaxrecon.detect.network import DetectorConfig, DetectorNetwork, Output
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import save_weights

CONFIG = DetectorConfig(points=68, labels=10, size=64, reference=15.0, widths=(4,) * 5)


def marks(centre, extent, roll):
    """68 landmarks of a face seen from the front: eyes, mouth, and others between them."""
    points = np.zeros((68, 2))
    points[36:42, 0], points[42:48, 0] = np.linspace(-0.5, -0.2, 6), np.linspace(0.5, 0.2, 6)
    points[36], points[39], points[42], points[45] = (-0.5, 0), (-0.2, 0), (0.2, 0), (0.5, 0)
    points[36:48, 1] = -1 / faces.EYES_TO_MOUTH / 2
    points[48:60] = [0, 1 / faces.EYES_TO_MOUTH / 2]
    points[48:60, 0] = np.tile([-0.2, 0.2], 6)
    c, s = np.cos(roll), np.sin(roll)
    return centre + extent * points @ np.array([[c, s], [-s, c]])


def into(crop, points):
    """Pixels of the photograph as those of a crop."""
    A = crop.matrix()
    return (points - A[:, 2]) @ np.linalg.inv(A[:, :2]).T


@pytest.mark.parametrize("roll", [0.0, 0.6, -1.4])
def test_pose_in_plane(roll):
    points = marks(np.array([40.0, 30.0]), 20.0, roll)
    centre, extent, angle = faces.pose_in_plane(points)
    np.testing.assert_allclose(centre, [40.0, 30.0], atol=1e-9)
    assert extent == pytest.approx(20.0)
    assert angle == pytest.approx(roll)


def test_pose_in_plane_of_a_profile_keeps_the_size():
    points = marks(np.zeros(2), 20.0, 0.0)
    points[:, 0] *= 0.2
    assert faces.pose_in_plane(points)[1] == pytest.approx(20.0)


def oracle(truth, noise, log):
    """A look that knows the landmarks, up to an error in proportion to how far the face is from
    the scale and the turn that it knows best.
    """

    def look(network, photo, crop, mirror):
        size = crop.size
        points = into(crop, truth["points"])
        centre, extent, angle = faces.pose_in_plane(points)
        log.append((extent / network.config.reference, angle, crop))
        off = abs(np.log(extent / network.config.reference)) + abs(angle)
        points = points + noise * off * np.array([1.0, -1.0])
        labels = np.zeros((size, size, 10), np.float32)
        y, x = np.mgrid[:size, :size] + 0.5
        inside = np.hypot(x - centre[0], y - centre[1]) < extent
        labels[..., 1], labels[..., 0] = inside, ~inside
        found = np.full((size // 16, size // 16, 4), -9.0, np.float32)
        cell = np.clip((centre / 16).astype(int), 0, size // 16 - 1)
        if abs(np.log(extent / network.config.reference)) < 0.45:
            at = (centre - (cell + 0.5) * 16) / 32
            found[cell[1], cell[0]] = [5, *at, np.log(extent / network.config.reference)]
        ones = np.ones(68, np.float32)
        return Output(None, points.astype(np.float32), 0 * ones, 0.98 * ones, labels, found)

    return look


@pytest.mark.parametrize("roll", [0.0, 0.9])
@pytest.mark.parametrize("extent", [12.0, 60.0])
def test_the_second_look_is_upright_and_closer(monkeypatch, roll, extent):
    centre = np.array([150.0, 120.0])
    truth, log = {"points": marks(centre, extent, roll)}, []
    monkeypatch.setattr(faces, "look", oracle(truth, 1.0, log))
    monkeypatch.setattr(faces, "_score", lambda network, photo, crop: 0.9)
    start = [Candidate(centre + 0.1 * extent, extent * 1.2, 0.9)]
    monkeypatch.setattr(faces, "find", lambda network, photo, sides: start)
    photo = np.zeros((240, 320, 3), np.uint8)
    found = faces.detect_faces(Network(CONFIG, {}), photo)
    assert found.face is not None and found.parsing is not None and found.mask is not None
    assert np.abs(found.face.landmarks - truth["points"]).max() < 0.05 * extent
    ratio, angle, crop = log[1]
    assert ratio == pytest.approx(faces.CLOSE, rel=0.1) and abs(angle) < 0.1
    assert crop.angle == pytest.approx(roll, abs=0.1)
    close = log[2 : 2 + len(faces.CLOSE_LOOKS)]
    for (size, turn), (ratio, angle, _) in zip(faces.CLOSE_LOOKS, close, strict=True):
        assert ratio == pytest.approx(size, rel=0.05)
        assert np.degrees(angle) == pytest.approx(-turn, abs=3)
    np.testing.assert_allclose(found.face.box[:2] + found.face.box[2:], 2 * centre, atol=extent / 5)
    # One pixel of a crop is one standard deviation: so many pixels of the photograph.
    pixel = np.exp(np.mean([np.log(crop.side / crop.size) for _, _, crop in close]))
    np.testing.assert_allclose(found.face.sigma, pixel, rtol=1e-5)
    y, x = np.mgrid[:240, :320] + 0.5
    disc = np.hypot(x - centre[0], y - centre[1]) < extent
    assert (found.parsing[disc] == 1).mean() > 0.95
    assert (found.parsing[~disc] == 0).mean() > 0.98
    np.testing.assert_allclose(found.mask > 0.5, found.parsing > 0)
    assert found.sources["landmarks"] == "our own face network"


def test_a_given_box_is_looked_at_without_a_search(monkeypatch):
    centre, log = np.array([60.0, 60.0]), []
    truth = {"points": marks(centre, 20.0, 0.2)}
    monkeypatch.setattr(faces, "look", oracle(truth, 1.0, log))
    monkeypatch.setattr(faces, "find", None)
    box = np.concatenate([centre - 22.0, centre + 22.0])
    found = faces.detect_faces(Network(CONFIG, {}), np.zeros((120, 120, 3), np.uint8), box)
    assert found.face is not None and found.face.score == 1.0
    assert np.abs(found.face.landmarks - truth["points"]).max() < 2


@pytest.mark.parametrize(
    ("scores", "reported"),
    [
        ((0.97, 0.7), (0.97,)),  # though the doubtful one is larger
        ((0.97, 0.9), (0.9, 0.97)),  # the larger one first
        ((0.6, 0.7), (0.7,)),
        ((0.1, 0.15), ()),
    ],
)
def test_which_faces_are_reported(monkeypatch, scores, reported):
    places = [(20.0, np.array([60.0, 60.0])), (30.0, np.array([220.0, 120.0]))]
    start = [
        Candidate(centre, extent, score)
        for (extent, centre), score in zip(places, scores, strict=True)
    ]
    truth = {"points": marks(places[0][1], 20.0, 0.0)}
    monkeypatch.setattr(faces, "look", oracle(truth, 1.0, []))
    monkeypatch.setattr(faces, "find", lambda network, photo, sides: start)
    monkeypatch.setattr(faces, "_look_closer", lambda network, photo, one, given: one)
    found = faces.detect_faces(Network(CONFIG, {}), np.zeros((240, 320, 3), np.uint8))
    assert tuple(face.score for face in found.faces) == reported


def test_no_face_no_detections(monkeypatch):
    monkeypatch.setattr(faces, "find", lambda network, photo, sides: [])
    found = faces.detect_faces(Network(CONFIG, {}), np.zeros((50, 70, 3), np.uint8))
    assert found.faces == () and found.parsing is None and found.size == (50, 70)


def test_the_person_s_mask_bounds_the_next_look(monkeypatch):
    config = dataclasses.replace(CONFIG, points=25, labels=2, reference=45.0)
    crops = []

    def look(network, photo, crop, mirror):
        crops.append(crop)
        size = crop.size
        y, x = np.mgrid[:size, :size] + 0.5
        places = crop.to_photo(np.stack([x, y], -1).reshape(-1, 2)).reshape(size, size, 2)
        inside = (np.abs(places - [100.0, 80.0]) < [20.0, 60.0]).all(-1)
        labels = np.stack([~inside, inside], -1).astype(np.float32)
        ones = np.ones(25, np.float32)
        points = np.tile(into(crop, np.array([[100.0, 50.0]])), (25, 1)).astype(np.float32)
        return Output(None, points, 0 * ones, 0.98 * ones, labels, None)

    monkeypatch.setattr(person, "look", look)
    monkeypatch.setattr(person, "find", lambda *a: [Candidate(np.array([90.0, 90.0]), 90.0, 0.8)])
    found = person.detect_person(Network(config, {}), np.zeros((200, 200, 3), np.uint8))
    assert found.person is not None and found.mask is not None
    np.testing.assert_allclose(found.person.box, [40, 20, 160, 140], atol=4)
    assert crops[1].side == pytest.approx(64 * 120 / (person.SECOND * 45), rel=0.05)
    for (ratio, turn), crop in zip(person.LOOKS, crops[2:], strict=True):
        assert crop.side == pytest.approx(64 * 120 / (ratio * 45), rel=0.05)
        assert np.degrees(crop.angle) == pytest.approx(turn)
    np.testing.assert_allclose(found.person.keypoints[3], [100.0, 50.0], atol=1e-2)
    y, x = np.mgrid[:200, :200] + 0.5
    truth = (np.abs(x - 100) < 20) & (np.abs(y - 80) < 60)
    assert ((found.mask > 0.5) == truth).mean() > 0.99


@pytest.mark.parametrize(
    ("score", "covered", "box", "people"),
    [(0.3, 9, None, 1), (0.1, 9, None, 0), (0.3, 2, None, 0), (0.0, 0, [9, 9, 99, 99], 1)],
)
def test_nobody_is_no_person(monkeypatch, score, covered, box, people):
    config = dataclasses.replace(CONFIG, points=25, labels=2, reference=45.0)
    labels = np.zeros((64, 64, 2), np.float32)
    labels[:covered, :covered, 1] = 1  # of 4096 pixels half a per cent are 20.5
    ones = np.ones(25, np.float32)
    answer = Output(None, np.ones((25, 2), np.float32), ones, ones, labels, None)
    monkeypatch.setattr(person, "look", lambda *a: answer)
    start = Candidate(np.array([60.0, 60.0]), 90.0, score)
    monkeypatch.setattr(person, "find", lambda *a: [start])
    photo = np.zeros((120, 130, 3), np.uint8)
    found = person.detect_person(
        Network(config, {}), photo, None if box is None else np.array(box, float)
    )
    assert len(found.people) == people and (found.mask is None) == (people == 0)
    assert found.size == (120, 130) and bool(found.sources) == bool(people)


# ---------------------------------------------------------------- weights


def written(tmp_path, **changes):
    config = dataclasses.replace(CONFIG, size=96, up_widths=(4,) * 4)
    variables = DetectorNetwork(config).init(jax.random.key(0), jnp.zeros((1, 96, 96, 3)))
    header = {"system": "detector_face", "network": dataclasses.asdict(config)} | changes
    save_weights(tmp_path / "w", dict(variables), header)
    return tmp_path / "w"


def test_own_weights_are_used(tmp_path):
    network = own.load_network("face", written(tmp_path))
    photo = np.random.default_rng(0).integers(0, 255, (90, 64, 3)).astype(np.uint8)
    # Untrained, but sure of itself: all of the search and the looks run.
    eager = jax.tree.map(np.array, network.variables)
    eager["params"]["found"]["bias"][:] = [30.0, 0.0, 0.0, 0.0]
    eager["params"]["found"]["kernel"][:] = 0.0  # every cell sees one in its middle
    found = faces.detect_faces(Network(network.config, eager), photo)
    assert found.face is not None and found.parsing is not None and found.mask is not None
    assert found.parsing.shape == found.mask.shape == (90, 64)
    assert 0 <= found.mask.min() and found.mask.max() <= 1
    assert np.isfinite(found.face.landmarks).all() and (found.face.sigma > 0).all()
    np.testing.assert_array_equal(found.parsing > 0, found.parsing.astype(bool))
    shy = own.face_detector(tmp_path / "w")(np.zeros((64, 64, 3), np.uint8))
    assert shy.size == (64, 64) and network.config.size == 96


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [0, 0, np.nan, 5], [80, 0, 90, 9], [-9, -9, -1, -1], [9, 9, 2, 2]]
)
@pytest.mark.parametrize("detect", [faces.detect_faces, person.detect_person])
def test_boxes_that_are_none_are_refused(box, detect):
    photo = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(InputError, match="box"):
        detect(Network(CONFIG, {}), photo, np.array(box, float))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"system": "pamir"}, "of the kind face"),
        ({"network": {"points": 68}}, "do not fit"),
        ({"network": {"points": "many"}}, "many"),
        ({"network": {"points": 25, "labels": 2}}, "25 points and 2 labels"),
        ({"network": None}, "network"),
    ],
)
def test_weights_of_something_else_are_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        own.load_network("face", written(tmp_path, **changes))


def test_damaged_weights_are_refused(tmp_path):
    path = written(tmp_path)
    header = json.loads(path.with_suffix(".json").read_text())
    header["network"]["points"] = 67
    path.with_suffix(".json").write_text(json.dumps(header))
    with pytest.raises(InputError, match="67 points"):
        own.load_network("face", path)
    with pytest.raises(InputError, match="no such file"):
        own.load_network("face", tmp_path / "nothing")


def test_crops_of_a_candidate_have_it_in_scale():
    crop = faces.crop_of(Network(CONFIG, {}), Candidate(np.array([5.0, 6.0]), 30.0, 1.0), 1.0)
    assert isinstance(crop, Crop)
    assert 30.0 * crop.size / crop.side == pytest.approx(CONFIG.reference)
