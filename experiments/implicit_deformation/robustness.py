"""How a fit bears cameras that are unknown or rough, landmarks that are noisy, and photographs of
which nothing is known.

    python -m experiments.implicit_deformation.robustness --subjects DIR --views 0,1,3

Rows: `given` (exact cameras), `estimate` (K known), `no cameras` (nothing known), `rough` (cameras
with noise taken as exact), `refine` (the same, refined), `landmarks` (noisy ones), `found` (over
clutter, landmarks and masks found by our network), `photographs` (the same, and no cameras). Errors
are those of the face protocol, after ICP with scale where cameras were estimated, else without.
Camera errors are angles between relative turns of the views and the true ones, and distances of
camera centres after the best rigid alignment.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import cast

import jax
import numpy as np

from data_pipelines.detector_pixels import clutter
from experiments.command_line import (
    parse,
    view_numbers,
    views_folders,
    write_table,
)
from jaxrecon.detect.own import face_detector
from jaxrecon.errors import InputError
from jaxrecon.evaluation.face_protocol import score_face
from jaxrecon.geometry.registration import procrustes_host
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.detections import complete_views
from jaxrecon.pipelines.implicit_deformation_inputs import UNIT_MM, CameraChoice
from jaxrecon.pipelines.views import Views, load_views
from jaxrecon.types import Cameras

CHOICES: dict[str, CameraChoice] = {
    "given": "given",
    "estimate": "estimate",
    "no cameras": "estimate",
    "rough": "given",
    "refine": "refine",
    "landmarks": "given",
    "found": "given",
    "photographs": "estimate",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Fit every subject of a folder under each disturbance, and score it."""

    subjects: pathlib.Path
    """Folder of views folders with ground truth, cameras and landmarks."""
    views: str | None = None
    """Which views to use, such as 0,1,3; all if not given."""
    rows: str = ",".join(CHOICES)
    """Which rows, separated by commas."""
    degrees: float = 1.0
    """Turn of each rough camera about its own centre, about a random axis."""
    millimetres: float = 5.0
    """Shift of each rough camera, in a random direction."""
    pixels: float = 2.0
    """Standard deviation of the noise of landmarks."""
    preset: str = "fast"
    """fast or quality."""
    weights: pathlib.Path | None = None
    """Weights without suffix; the released ones if not given."""
    seed: int = 0
    """Of the noise and the clutter."""
    out: pathlib.Path | None = None
    """JSON file for the numbers."""


def rough_cameras(cameras: Cameras, degrees: float, distance: float, seed: int) -> Cameras:
    """Each camera turned about its own centre by `degrees` and shifted by `distance` (world units),
    in random directions.
    """
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    R, t = [], []
    for own, shift in zip(np.asarray(cameras.R), np.asarray(cameras.t), strict=True):
        axis, step = (x / np.linalg.norm(x) for x in rng.standard_normal((2, 3)))
        turned = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix() @ own
        R.append(turned)
        t.append(-turned @ (-own.T @ shift + distance * step))
    return Cameras(K=cameras.K, R=np.stack(R), t=np.stack(t))


def camera_errors(found: Cameras, true: Cameras, scale: bool) -> tuple[float, float]:
    """(mean degrees between relative turns of pairs of views, mean distance of camera centres after
    Procrustes alignment, units of `true`); NaN for one view.
    """
    own, other = (np.asarray(c.R, np.float64) for c in (found, true))
    count = len(own)
    if count < 2:
        return float("nan"), float("nan")
    angles = []
    for i in range(count):
        for j in range(i):
            difference = (own[i] @ own[j].T).T @ other[i] @ other[j].T
            angles.append(np.arccos(np.clip((np.trace(difference) - 1) / 2, -1, 1)))
    a, b = (
        -np.einsum("vji,vj->vi", np.asarray(c.R, np.float64), np.asarray(c.t, np.float64))
        for c in (found, true)
    )
    # Three centres fix no rotation well: a point in front of each camera goes with them.
    reach = [np.asarray(c.R, np.float64)[:, 2] * np.linalg.norm(x - x.mean(0), axis=1).mean()
             for c, x in ((found, a), (true, b))]  # fmt: skip
    s, R, t = procrustes_host(
        np.concatenate([a, a + reach[0]]), np.concatenate([b, b + reach[1]]), scale=scale
    )
    distance = np.linalg.norm(s * a @ R.T + t - b, axis=1).mean()
    return float(np.degrees(np.mean(angles))), float(distance)


def as_photographs(views: Views, seed: int) -> Views:
    """The views over procedural clutter, without masks and landmarks."""
    height, width = views.images.shape[1:3]
    size = -(-max(height, width) // 8) * 8
    keys = jax.random.split(jax.random.key(seed), len(views.names))
    draw = jax.jit(clutter, static_argnums=1)
    walls = np.stack([draw(key, size) for key in keys])[:, :height, :width]
    alpha = cast(np.ndarray, views.mask)[..., None]
    return dataclasses.replace(
        views,
        images=np.float32(walls + alpha * (views.images - walls)),
        mask=None,
        landmarks2d=None,
        landmark_weights=None,
        landmark_valid=None,
    )


def disturbed(views: Views, row: str, arguments: Arguments) -> Views:
    """The views as a row wants them."""
    if row in ("found", "photographs"):
        views = complete_views(as_photographs(views, arguments.seed), [face_detector()])
        row = "no cameras" if row == "photographs" else row
    cameras = cast(Cameras, views.cameras)
    if row == "no cameras":
        return dataclasses.replace(views, cameras=None, intrinsics=None, units=None)
    if row in ("rough", "refine"):
        unit = arguments.millimetres / UNIT_MM[cast(str, views.units)]
        rough = rough_cameras(cameras, arguments.degrees, unit, arguments.seed)
        return dataclasses.replace(views, cameras=rough)
    if row == "landmarks":
        points = cast(np.ndarray, views.landmarks2d)
        noise = np.random.default_rng(arguments.seed).normal(0, arguments.pixels, points.shape)
        return dataclasses.replace(views, landmarks2d=np.float32(points + noise))
    return views


def evaluate(arguments: Arguments) -> list[dict]:
    """One record a subject and row."""
    select = view_numbers(arguments.views)
    chosen = arguments.rows.split(",")
    if unknown := sorted(set(chosen) - set(CHOICES)):
        raise InputError(f"rows {unknown}", f"some of {list(CHOICES)}")
    folders = views_folders(arguments.subjects)
    prior = pipeline.load_prior(arguments.weights)
    table = []
    columns = ("mean mm", "/ given", "degrees", "camera mm", "landmarks px", "s")
    print(f"{'subject':10} {'row':12} " + " ".join(f"{c:>12}" for c in columns))
    for folder in folders:
        views = load_views(folder, select, need=("cameras", "masks", "landmarks"))
        for row in chosen:
            table.append({"subject": folder.name, "row": row} | _one(views, row, prior, arguments))
            given = [
                r["mean"] for r in table if r["subject"] == folder.name and r["row"] == "given"
            ]
            table[-1]["ratio"] = table[-1]["mean"] / given[0] if given else float("nan")
            print(_line(table[-1]), flush=True)
    for text in summary(table):
        print(text)
    return table


def _one(views: Views, row: str, prior, arguments: Arguments) -> dict:
    options = pipeline.Options(preset=arguments.preset, cameras=CHOICES[row], report=False)
    spoiled = disturbed(views, row, arguments)
    try:
        done = pipeline.reconstruct(spoiled, options, prior)
    except InputError as error:  # such as cameras so rough that nothing fits
        print(f"{views.folder.name} {row}: {error.given}", file=sys.stderr)
        return dict.fromkeys(("mean", "degrees", "distance", "landmarks", "seconds"), float("nan"))
    label = int(views.expression[0])
    estimated = CHOICES[row] == "estimate"
    score = score_face(
        done.meshes[label], views.folder, expression=label,
        scale=UNIT_MM[cast(str, done.views.units)], align="similarity" if estimated else "icp",
    )  # fmt: skip
    unit = UNIT_MM[cast(str, views.units)]
    degrees, distance = camera_errors(
        cast(Cameras, done.views.cameras), cast(Cameras, views.cameras), estimated
    )
    return {
        "mean": score.mean,
        "degrees": degrees,
        "distance": distance * unit,
        "landmarks": float(done.result.landmark_error),
        "seconds": sum(done.timings.values()),
    }


def _line(r: dict) -> str:
    numbers = (r["mean"], r["ratio"], r["degrees"], r["distance"], r["landmarks"], r["seconds"])
    return f"{r['subject']:10} {r['row']:12} " + " ".join(f"{x:12.3f}" for x in numbers)


def summary(table: list[dict]) -> list[str]:
    """One line a row, with ratios to `given` where it is there; for `refine`, also the part of the
    lost accuracy that came back.
    """
    lines, errors = [], {(r["subject"], r["row"]): r["mean"] for r in table}
    for row in dict.fromkeys(r["row"] for r in table):
        ratios = [r["ratio"] for r in table if r["row"] == row]
        mean = np.mean([r["mean"] for r in table if r["row"] == row])
        text = f"{row}: mean {mean:.3f} mm"
        if np.isfinite(ratios).all():
            text += f"; ratio to given, median {np.median(ratios):.2f}, largest {max(ratios):.2f}"
        subjects = [r["subject"] for r in table if r["row"] == row]
        if row == "refine" and all((s, n) in errors for s in subjects for n in ("given", "rough")):
            back = [
                (errors[s, "rough"] - errors[s, row]) / (errors[s, "rough"] - errors[s, "given"])
                for s in subjects
            ]
            text += f"; of the loss, median {np.median(back):.0%} and least {min(back):.0%} back"
        lines.append(text)
    return lines


def main(arguments: Arguments) -> int:
    """Print the table; exit code."""
    return write_table(evaluate, arguments, arguments.out)


if __name__ == "__main__":
    sys.exit(main(parse(Arguments)))
