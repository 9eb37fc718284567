"""The paper's tables on views folders: fit every subject, score it, print the table.

    python -m experiments.implicit_deformation.evaluate --subjects DIR --model ict_head.npz
    python -m experiments.implicit_deformation.evaluate --subjects DIR --ablation

The second prints the rows of Table 3. DIR holds views folders with ground truth. Tables 1 and 2 of
the paper are on Bosphorus and Stirling/ESRC, which need licences: convert them to views folders and
give their folder here. With --model two baselines stand beside every fit, also where they win: the
mean head, placed by the true landmarks, and the linear model fitted to the same 2D landmarks and
cameras without pixels; the ratios to both are printed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import numpy as np

from experiments.command_line import (
    parse,
    view_numbers,
    views_folders,
    write_table,
)
from experiments.implicit_deformation import linear_model
from jaxrecon.errors import InputError
from jaxrecon.evaluation.face_protocol import load_ground_truth, score_face
from jaxrecon.geometry.registration import procrustes_host
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.implicit_deformation_inputs import UNIT_MM, view_data
from jaxrecon.pipelines.views import load_views
from jaxrecon.types import Mesh


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Fit and score every subject of a folder."""

    subjects: pathlib.Path
    """Folder of views folders with ground truth."""
    views: str | None = None
    """Which views to use, such as 0,1,3; all if not given."""
    preset: str = "fast"
    """fast or quality."""
    model: pathlib.Path | None = None
    """Linear head model (.npz) of the baselines: its mean, and itself fitted to the landmarks."""
    weights: pathlib.Path | None = None
    """Weights without suffix; the released ones if not given."""
    ablation: bool = False
    """Rows of Table 3: baseline, + view switch, full."""
    seed: int = 0
    """Of the fits."""
    out: pathlib.Path | None = None
    """JSON file for the numbers."""


def mean_head(model: pathlib.Path, folder: pathlib.Path, expression: int) -> Mesh:
    """The model's mean skin, placed by the true 3D landmarks with scale (the protocol's
    baseline).
    """
    face = load_face_model(model, parts=("face", "head_neck"))
    _, _, landmarks = load_ground_truth(folder, expression)
    if landmarks is None:
        raise InputError(f"{folder}: no 3D landmarks", "landmarks.json with landmarks3d")
    known = np.isfinite(landmarks).all(1)
    mean = np.asarray(face.mean, np.float64)
    marks = np.asarray(face.landmark_points(mean), np.float64)
    s, R, t = procrustes_host(marks[known], landmarks[known], scale=True)
    return Mesh(s * mean @ R.T + t, np.asarray(face.faces, np.int64))


def rows(preset: str, ablation: bool) -> dict:
    """Name -> FitConfig of every row."""
    full = pipeline.PRESETS[preset].fit
    if not ablation:
        return {"full": full}
    # The same number of steps on pixels in every row.
    steps = full.weight_steps + full.residual_steps
    plain = dataclasses.replace(full, weight_steps=steps, residual_steps=0)
    return {
        "baseline": dataclasses.replace(plain, switch_steps=0),
        "+ view switch": plain,
        "+ residual codes (full)": full,
    }


def main(arguments: Arguments) -> int:
    """Print the table; exit code."""
    return write_table(evaluate, arguments, arguments.out)


def evaluate(arguments: Arguments) -> list[dict]:
    """One record a subject and row: errors in mm (face protocol, expression of the first view)."""
    prior = pipeline.load_prior(arguments.weights)
    select = view_numbers(arguments.views)
    folders = views_folders(arguments.subjects)
    options = pipeline.Options(preset=arguments.preset, seed=arguments.seed, views=select)
    baseline = None if arguments.model is None else linear_model.load_baseline(arguments.model)
    table = []
    columns = ("mean head", "linear", "ours", "/mean head", "/linear", "median", "p90", "raw", "s")
    print(f"{'subject':10} {'row':24} " + " ".join(f"{c:>10}" for c in columns))
    for folder in folders:
        views = load_views(folder, select, need=("cameras", "masks", "landmarks"))
        label = int(views.expression[0])
        scale = UNIT_MM.get(views.units or "", 1.0)
        others = {"mean_head": None, "linear_model": None}
        if baseline is not None:
            others = score_baselines(arguments.model, baseline, folder, views, prior, label, scale)
        for name, config in rows(arguments.preset, arguments.ablation).items():
            done = pipeline.reconstruct(views, options, prior, config=config)
            score = score_face(done.meshes[label], folder, expression=label, scale=scale)
            record = {"subject": folder.name, "row": name, "seconds": sum(done.timings.values())}
            table.append(record | others | score.summary())
            print(_line(table[-1]), flush=True)
    for text in summary(table):
        print(text)
    return table


def score_baselines(model, baseline, folder, views, prior, label: int, scale: float) -> dict:
    """{"mean_head", "linear_model"}: errors of the baselines, mm (face protocol)."""
    mean = mean_head(model, folder, label)
    data = view_data(views, prior)
    labels = np.unique(views.expression)
    row = int(np.searchsorted(labels, label))
    linear, _ = linear_model.fit_linear_model(baseline, data, len(labels), row)
    return {
        "mean_head": score_face(mean, folder, expression=label).mean,
        "linear_model": score_face(linear, folder, expression=label, scale=scale).mean,
    }


def _line(record: dict) -> str:
    """One row of the table; a ratio below 1 means that ours is better."""
    mean, linear, ours = (record[n] or np.nan for n in ("mean_head", "linear_model", "mean"))
    numbers = (mean, linear, ours, ours / mean, ours / linear)
    numbers += (record["median"], record["p90"], record["raw_mean"])
    text = " ".join(f"{x:10.3f}" for x in numbers)
    return f"{record['subject']:10} {record['row']:24} {text} {record['seconds']:10.0f}"


def summary(table: list[dict]) -> list[str]:
    """One line a row of the ablation: mean error, and median and largest ratio to each baseline."""
    lines = []
    for name in dict.fromkeys(r["row"] for r in table):
        chosen = [r for r in table if r["row"] == name]
        text = f"{name}: mean {np.mean([r['mean'] for r in chosen]):.3f} mm"
        for key, words in (("mean_head", "mean head"), ("linear_model", "linear model")):
            if all(r[key] for r in chosen):
                ratios = [r["mean"] / r[key] for r in chosen]
                text += f"; ratio to the {words}: median {np.median(ratios):.3f}"
                text += f", largest {max(ratios):.3f}"
        lines.append(text)
    return lines


if __name__ == "__main__":
    sys.exit(main(parse(Arguments)))
