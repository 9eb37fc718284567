"""Distances between a predicted and a true surface, for any subject."""

from __future__ import annotations

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.geometry.distances import point_to_surface
from jaxrecon.geometry.mesh import sample_surface, triangle_normals
from jaxrecon.geometry.registration import icp
from jaxrecon.types import Mesh

ALIGNMENTS = ("none", "icp", "similarity")


def compare_meshes(
    prediction: Mesh,
    truth: Mesh,
    *,
    align: str = "none",
    n: int = 20_000,
    seed: int = 0,
    unit: str = "mm",
    factor: float = 1.0,
) -> dict:
    """Surface errors of two meshes both ways, Chamfer distance and normal consistency.

    Args:
        prediction, truth: surfaces in one frame and unit.
        align: `none`, `icp` (rigid, of the prediction to samples of the truth) or `similarity`
            (with scale).
        n: area-uniform samples of each surface.
        seed: of the samples.
        unit: name of the reported unit; `factor` converts to it (100 from metres to centimetres).

    Returns:
        dict: `truth_to_prediction` and `prediction_to_truth` (each mean, std, median, p90, max),
            `chamfer` (mean of the
        two means), `normal_consistency` (mean cosine, 1 is best; `normal_consistency_abs` ignores
        the side), `unit`, `align`, `scale` (fitted), `samples`.

    Raises:
        InputError: unknown alignment.
    """
    if align not in ALIGNMENTS:
        raise InputError(
            f"align {align!r}", "one of " + ", ".join(ALIGNMENTS), "choose one of these"
        )
    rng = np.random.default_rng(seed)
    truth_samples = sample_surface(truth.vertices, truth.faces, rng, n)
    scale = 1.0
    if align != "none":
        fit = icp(
            truth_samples.points, prediction.vertices, prediction.faces, scale=align == "similarity"
        )
        scale, R, t = fit.similarity.scale, fit.similarity.R, fit.similarity.t
        vertices = scale * np.asarray(prediction.vertices, np.float64) @ R.T + t[None]
        prediction = Mesh(vertices, prediction.faces)
    prediction_samples = sample_surface(prediction.vertices, prediction.faces, rng, n)
    forward, forward_cosine = _one_way(truth_samples, prediction)
    backward, backward_cosine = _one_way(prediction_samples, truth)
    cosines = np.concatenate([forward_cosine, backward_cosine])
    return {
        "truth_to_prediction": _statistics(forward * factor),
        "prediction_to_truth": _statistics(backward * factor),
        "chamfer": float((forward.mean() + backward.mean()) / 2 * factor),
        "normal_consistency": float(cosines.mean()),
        "normal_consistency_abs": float(np.abs(cosines).mean()),
        "unit": unit,
        "align": align,
        "scale": float(scale),
        "samples": n,
    }


def _one_way(samples, mesh):
    """Distances and cosines of the normals between samples and their closest faces of `mesh`."""
    distance, _, face = point_to_surface(samples.points, mesh)
    normals = triangle_normals(np.asarray(mesh.vertices, np.float64), mesh.faces)[face]
    return distance, (samples.normals * normals).sum(1)


def _statistics(distances):
    return {
        "mean": float(distances.mean()),
        "std": float(distances.std()),
        "median": float(np.median(distances)),
        "p90": float(np.quantile(distances, 0.9)),
        "max": float(distances.max()),
    }
