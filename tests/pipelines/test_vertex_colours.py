"""Colours of vertices from photographs: what is seen is copied, what is hidden is not trusted."""

import numpy as np

from data_pipelines.synthetic_head import sphere
from jaxrecon.geometry.cameras import intrinsics, look_at
from jaxrecon.pipelines.vertex_colours import photograph_colours
from jaxrecon.types import Cameras, Mesh


def _views(directions, size=96):
    cameras = [
        look_at(
            np.asarray(d, np.float32) * 4.0, np.zeros(3, np.float32), intrinsics(150.0, size, size)
        )
        for d in directions
    ]
    return Cameras(
        *(np.stack([np.asarray(getattr(c, n)) for c in cameras]) for n in ("K", "R", "t"))
    )


def test_a_ball_takes_the_colour_of_the_picture_that_sees_it():
    vertices, faces = sphere(3)
    mesh = Mesh(vertices, faces)
    cameras = _views([(0.0, 0.0, 1.0), (0.0, 0.0, -1.0)])
    images = np.zeros((2, 96, 96, 3), np.float32)
    images[0, ..., 0], images[1, ..., 1] = 1.0, 1.0  # red from the front, green from behind
    subject = np.ones((2, 96, 96), np.float32)
    colours, trust = photograph_colours(mesh, images, subject, cameras)
    front, behind = vertices[:, 2] > 0.8, vertices[:, 2] < -0.8
    np.testing.assert_allclose(colours[front], [[1.0, 0.0, 0.0]] * front.sum(), atol=1e-6)
    np.testing.assert_allclose(colours[behind], [[0.0, 1.0, 0.0]] * behind.sum(), atol=1e-6)
    assert (trust[front] > 0.9).all()
    rim = np.abs(vertices[:, 2]) < 0.05  # grazing for both cameras
    assert (trust[rim] == 0.0).all()


def test_hidden_and_masked_vertices_are_not_trusted():
    near, faces = sphere(2)
    count = len(near)
    vertices = np.concatenate([0.3 * near + [[0, 0, 1.5]], 0.3 * near])  # one ball before another
    mesh = Mesh(vertices, np.concatenate([faces, faces + count]))
    cameras = _views([(0.0, 0.0, 1.0)])
    images = np.ones((1, 96, 96, 3), np.float32)
    subject = np.ones((1, 96, 96), np.float32)
    _, trust = photograph_colours(mesh, images, subject, cameras)
    assert trust[:count].max() > 0.9 and trust[count:].max() == 0.0
    _, trust = photograph_colours(mesh, images, 0 * subject, cameras)
    assert trust.max() == 0.0


def test_bilinear_samples_are_at_pixel_centres():
    vertices, faces = sphere(3)
    cameras = _views([(0.0, 0.0, 1.0)])
    ramp = np.broadcast_to((np.arange(96, dtype=np.float32) + 0.5)[None, :, None] / 96, (96, 96, 3))
    colours, trust = photograph_colours(
        Mesh(vertices, faces), ramp[None], np.ones((1, 96, 96), np.float32), cameras
    )
    camera = Cameras(cameras.K[0], cameras.R[0], cameras.t[0])
    x = vertices @ camera.R.T + camera.t
    u = camera.K[0, 0] * x[:, 0] / x[:, 2] + camera.K[0, 2]
    seen = trust > 0.5
    np.testing.assert_allclose(colours[seen, 0], u[seen] / 96, atol=1e-4)
