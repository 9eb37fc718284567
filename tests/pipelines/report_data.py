"""A small report's data, shared by the tests of the file and of the page in a browser."""

import numpy as np

from jaxrecon.pipelines.report import ReportData
from jaxrecon.types import Cameras, Mesh

HOSTILE = "</script><script>alert('x')</script>\"'{{details}}&<b>"


def sphere(rings=12, segments=16):
    """A closed orange unit ball (v, 3), counter-clockwise faces, scaled to 100 mm and moved far
    from the origin.
    """
    polar = np.linspace(0, np.pi, rings + 1)[1:-1]
    around = np.arange(segments) * 2 * np.pi / segments
    body = np.stack(
        [
            np.outer(np.sin(polar), np.sin(around)),
            np.repeat(np.cos(polar)[:, None], segments, 1),
            np.outer(np.sin(polar), np.cos(around)),
        ],
        -1,
    ).reshape(-1, 3)
    vertices = np.concatenate([[[0, 1.0, 0]], body, [[0, -1.0, 0]]])
    last = len(vertices) - 1
    faces = []
    for j in range(segments):
        k = (j + 1) % segments
        faces.append([0, 1 + j, 1 + k])
        for i in range(rings - 2):
            a, b = 1 + i * segments + j, 1 + i * segments + k
            faces += [[a, a + segments, b + segments], [a, b + segments, b]]
        faces.append([last, last - segments + k, last - segments + j])
    colours = np.broadcast_to(np.array([0.9, 0.45, 0.1], np.float32), vertices.shape).copy()
    return Mesh(100 * vertices + np.array([500.0, 0, -300]), np.array(faces), colours)


def data(**changes):
    """Everything a report can show, for a ball seen by two cameras."""
    mesh = sphere()
    K = np.array([[60.0, 0, 24], [0, 60, 24], [0, 0, 1]])
    R = np.diag([1.0, -1, -1])
    t = -R @ (np.array([500.0, 0, -300]) + np.array([0, 0, 350.0]))
    error = np.linspace(0, 4, len(mesh.vertices))
    error[:5] = np.nan
    values = {
        "mesh": mesh,
        "title": f"ball {HOSTILE}",
        "names": (f"a{HOSTILE}.png", "b.png"),
        "images": np.full((2, 48, 48, 3), 0.5, np.float32),
        "masks": np.ones((2, 48, 48), np.float32),
        "cameras": Cameras(K=np.stack([K, K]), R=np.stack([R, R]), t=np.stack([t, t])),
        "losses": {
            f"total {HOSTILE}": np.exp(-np.arange(900) / 90),
            "odd": np.array([1.0, np.nan, 2.0]),
        },
        "timings": {f"fit {HOSTILE}": 12.5, "extract": 1.25},
        "metrics": {"mean (mm)": 1.25, "normals": {f"angle {HOSTILE}": 8.0}},
        "error": error,
        "config": {"seed": 3, "note": HOSTILE},
        "warnings": (f"careful {HOSTILE}",),
        "citation": f"@misc{{{HOSTILE}}}",
    }
    return ReportData(**{**values, **changes})
