"""Random poses of rendered people."""

import numpy as np
import pytest

from data_pipelines.detector_bodies import poses
from data_pipelines.detector_bodies.studio import build_of
from data_pipelines.detector_bodies.surface import load_person
from tests.data_pipelines.toy_body import write_toy


def test_poses_are_rotations_within_limits(tmp_path):
    person = load_person(write_toy(tmp_path)[0])
    build = build_of(person, person.template, person.regressor @ person.template)
    rng = np.random.default_rng(1)
    turns = np.stack([poses.sample_pose(rng, build, person.names) for _ in range(150)])
    eye = np.einsum("njab,njcb->njac", turns, turns)
    np.testing.assert_allclose(eye, np.broadcast_to(np.eye(3), eye.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=1e-9)
    for side in ("left", "right"):
        knee = turns[:, person.names.index(f"{side}_knee")]
        # knees bend backwards only, and no further than the calf
        bend = np.degrees(np.arctan2(knee[:, 2, 1], knee[:, 1, 1]))
        assert bend.min() >= 0 and 60 < bend.max() < 160
        angle = np.degrees(np.arccos(np.clip((np.einsum("njaa->jn", turns) - 1) / 2, -1, 1)))
        elbow = angle[person.names.index(f"{side}_elbow")]
        assert elbow.max() < 150
        head = angle[person.names.index("head")] + angle[person.names.index("neck")]
        assert head.max() < 90


def test_an_arm_reaches_its_target(rng):
    for _ in range(20):
        target, pole = rng.normal(size=3) * 0.25, rng.normal(size=3)
        reach = np.linalg.norm(target)
        upper, fore, flex = poses.two_bones(target, pole, (0.28, 0.25))
        assert np.linalg.norm(upper) == pytest.approx(1.0)
        assert np.linalg.norm(fore) == pytest.approx(0.25)
        end = 0.28 * upper + fore
        expected = target * np.clip(reach, 0.05, 0.995 * 0.53) / reach
        np.testing.assert_allclose(end, expected, atol=1e-9)
        cosine = upper @ fore / 0.25
        assert np.cos(np.radians(flex)) == pytest.approx(cosine, abs=1e-9)
        aside = pole - (pole @ target) * target / reach**2
        assert upper @ aside >= -1e-9
