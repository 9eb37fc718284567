"""Random cameras, and how ours project: for the tests of camera files."""

import hypothesis.strategies as st
import numpy as np
from scipy.spatial.transform import Rotation

from jaxrecon.interop import camera_files

WIDTH, HEIGHT = 640, 480


@st.composite
def poses(draw):
    """(R_camera_world, t) with everything of the size of 1, at any angle."""
    angles = [draw(st.floats(-7, 7)) for _ in range(3)]
    t = [draw(st.floats(-3, 3)) for _ in range(3)]
    return Rotation.from_euler("zyx", angles), np.array(t)


lenses = st.tuples(st.floats(50, 3000), st.floats(50, 3000), st.floats(-50, 700), st.floats(0, 500))
rigs = st.lists(st.tuples(poses(), lenses), min_size=1, max_size=4)


def points_ahead(pose, count=20):
    """World points one to five units before a camera."""
    rotation, t = pose
    rng = np.random.default_rng(3)
    x = np.stack([*rng.uniform(-1, 1, (2, count)), rng.uniform(1, 5, count)], -1)
    return rotation.inv().apply(x - t)


def project(camera, points):
    """Our own convention, written out."""
    K = camera_files.intrinsics("here", camera.lens, WIDTH, HEIGHT)
    x = points @ camera.R.T + camera.t
    return (x @ K.T)[:, :2] / x[:, 2:]


RIG = [
    ((Rotation.from_euler("y", 20, degrees=True), np.array([0.0, 0.1, 2.0])), (500, 510, 320, 240)),
    (
        (Rotation.from_euler("y", -20, degrees=True), np.array([0.0, 0.1, 2.5])),
        (500, 510, 310, 250),
    ),
]
