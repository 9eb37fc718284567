"""Files of one reconstructed face: meshes, fit.json, state.npz and the report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

import jaxrecon
from jaxrecon.cite import cite
from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.mesh_io import save_mesh
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.implicit_deformation_inputs import UNIT_MM
from jaxrecon.pipelines.output import explained, output_folder, write_json, write_npz
from jaxrecon.pipelines.views import Views
from jaxrecon.types import Cameras, Mesh

RECORD = "fit.json"
COLOURS = {
    "photographs": "coloured by the photographs where they see it",
    "network": "coloured by the rendering network",
}


def write(
    done: pipeline.Reconstruction,
    folder: pathlib.Path,
    options: pipeline.Options,
    made_from: dict | None = None,
    batch: Sequence[str] = (),
) -> pathlib.Path:
    """Write OUT/SUBJECT: mesh.ply, mesh.glb, mesh_view_NNN.ply, state.npz, report.html, fit.json.

    What an earlier run left stays untouched until everything new is on the disk beside it. fit.json
    comes last and names the files: a folder without it is not complete.

    Args:
        done: of `reconstruct`.
        folder: OUT/SUBJECT.
        options: as of the fit.
        made_from: goes to fit.json; what `jaxrecon fit --resume` compares.
        batch: goes to fit.json; the subjects that were fitted together, in `seconds`.

    Returns:
        path of the report, or of mesh.ply when no report is wanted.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    clock = time.monotonic()
    folder = output_folder(folder)
    views, mesh = done.views, done.meshes[int(done.views.expression[0])]
    scores, warnings = _scores(views, done)
    state, record = _state(done), _record(views, done, options, scores, warnings)
    name = folder.name
    data = _report(views, name, done, record, scores, warnings, clock) if options.report else None
    normals = vertex_normals(mesh.vertices, mesh.faces)
    metres = 1e-3 if views.units == "millimetres" else 1.0
    with _replacing(folder) as new:
        save_mesh(new / "mesh.ply", mesh)
        save_mesh(new / "mesh.glb", mesh, scale=metres, normals=np.asarray(normals))
        if len(done.meshes) > 1:
            for index, label in zip(views.indices, views.expression, strict=True):
                save_mesh(new / f"mesh_view_{index:03d}.ply", done.meshes[int(label)])
        write_npz(new / "state.npz", state)
        if data is not None:
            from jaxrecon.pipelines.report import write_report

            write_report(new / "report.html", data)
        record |= {"subject": folder.name, "batch": list(batch) or [folder.name]}
        record |= {"made_from": made_from or {}}
        record |= {"files": sorted(p.name for p in new.iterdir())}
        write_json(new / RECORD, record)
    for warning in warnings:
        print(f"{folder.name}: warning: {warning}", file=sys.stderr)
    return folder / ("mesh.ply" if data is None else "report.html")


@contextlib.contextmanager
def _replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder whose files move to `folder` when the block ends well, the record last."""
    new = folder / ".new"
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    try:
        with explained(folder):
            new.mkdir()
            yield new
            names = sorted(p.name for p in new.iterdir() if p.name != RECORD)
            (folder / RECORD).unlink(missing_ok=True)
            for old in folder.glob("mesh_view_[0-9][0-9][0-9].ply"):
                if old.name not in names:
                    old.unlink()
            for name in [*names, RECORD]:
                os.replace(new / name, folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a complete output folder says of itself."""

    report: pathlib.Path
    """or the mesh, without one"""
    made_from: dict
    """as given to `write`"""
    batch: tuple[str, ...]
    """names of the subjects that were fitted together"""


def finished(folder: pathlib.Path) -> Finished | None:
    """What is in an output folder; None where it is not complete."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = [str(name) for name in record["files"]]
        made_from = dict(record["made_from"])
        batch = tuple(str(name) for name in record["batch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if "mesh.ply" not in names or not all((folder / name).is_file() for name in names):
        return None
    report = folder / ("report.html" if "report.html" in names else "mesh.ply")
    return Finished(report, made_from, batch)


def _report(
    views: Views, name: str, done: pipeline.Reconstruction, record, scores, warnings, clock
):
    """What the report shows."""
    from jaxrecon.pipelines.report import ReportData

    first = int(views.expression[0])
    pictures = _pictures(views, done)
    error = _vertex_errors(done.meshes[first], views, first, scores)
    settings = {k: record[k] for k in ("resolution", "weights")}
    return ReportData(
        mesh=done.meshes[first],
        title=f"{name}: a face from {_count(len(views.names))}",
        names=[_name(views, i) for i in range(len(views.names))],
        images=list(views.images),
        masks=list(views.mask) if views.mask is not None else None,
        landmarks=_found_landmarks(views),
        captions=[_caption(parts) for parts in views.detections] or None,
        cameras=_cameras(views),
        renders=pictures[0],
        render_caption="reconstruction, " + COLOURS[record["config"]["colours"]],
        normals=pictures[1],
        losses={k: v for k, v in done.result.history.items() if k != "evaluations"},
        timings=dict(done.timings) | {"scores and pictures": time.monotonic() - clock},
        metrics={f"expression {k}": v.summary() for k, v in scores.items()} or None,
        error=error,
        unit=views.units or "unknown",
        config=record["config"] | settings,
        warnings=warnings,
        citation=cite("implicit_deformation"),
    )


def _count(photographs: int) -> str:
    return "one photograph" if photographs == 1 else f"{photographs} photographs"


def _sources(views: Views) -> dict[str, dict[str, str]]:
    """Of each view, where its landmarks and its mask come from: `given`, or what found them."""
    parts = ("landmarks", "mask")
    found = views.detections or ({},) * len(views.names)
    return {
        name: {part: one.get(part, "given") for part in parts}
        for name, one in zip(views.names, found, strict=True)
    }


def _found_landmarks(views: Views) -> list[np.ndarray | None] | None:
    """Seen landmarks of each view where they were found: the report draws them to be checked."""
    if views.landmarks2d is None or views.landmark_weights is None:
        return None
    seen = views.landmark_weights > 0
    found = ["landmarks" in parts for parts in views.detections]
    marks = [views.landmarks2d[i][seen[i]] if found[i] else None for i in range(len(found))]
    return marks if any(found) else None


def _caption(parts: Mapping[str, str]) -> str | None:
    """Under a photograph whose mask or landmarks were not given; None where all was."""
    words = ["faint outside the mask" + (", which was found" if "mask" in parts else "")]
    words += ["dots: landmarks that were found"] if "landmarks" in parts else []
    return f"photograph ({'; '.join(words)})" if parts else None


def _name(views: Views, i: int) -> str:
    several = len(np.unique(views.expression)) > 1
    return f"{views.names[i]}, expression {views.expression[i]}" if several else views.names[i]


def _cameras(views: Views) -> Cameras:
    return jax.tree.map(np.float32, views.cameras)


def _pictures(views: Views, done: pipeline.Reconstruction):
    """(renders, normal maps), each view with the mesh of its own expression."""
    from jaxrecon.pipelines.report import normal_maps, render_mesh_views

    height, width = views.images.shape[1:3]
    renders, maps = [], []
    for i, label in enumerate(views.expression):
        camera = jax.tree.map(lambda x, i=i: x[i : i + 1], _cameras(views))
        mesh = done.meshes[int(label)]
        renders.append(np.asarray(render_mesh_views(mesh, camera, height, width))[0])
        maps.append(np.asarray(normal_maps(mesh, camera, height, width))[0])
    return renders, maps


def _state(done: pipeline.Reconstruction) -> dict[str, np.ndarray]:
    """The fit as flat arrays: codes, variables, pose and the fine-tuned network."""
    from jaxrecon.interop.weights import flatten_tree

    result = done.result
    tree = {
        "z_id": result.z_id,
        "z_exp": result.z_exp,
        "z_colour": result.z_colour,
        "S_canonical_world": dataclasses.asdict(result.S_canonical_world),
        "variables": result.variables,
        "rendering": result.params["rendering"],
    }
    return flatten_tree(jax.device_get(tree))


def _scores(views: Views, done: pipeline.Reconstruction) -> tuple[dict, list[str]]:
    """Face protocol of every expression that has ground truth."""
    warnings, scores = list(done.warnings), {}
    if not any(views.ground_truth):
        return scores, warnings
    from jaxrecon.evaluation.face_protocol import score_face

    scale = UNIT_MM.get(views.units or "", 1.0)
    for label in sorted(done.meshes):
        try:
            scores[label] = score_face(
                done.meshes[label], views.folder, expression=label, scale=scale
            )
        except InputError as error:
            warnings.append(f"not scored: {error.given}")
        except Exception as error:  # a fit of minutes is worth more than its score
            warnings.append(f"not scored: {type(error).__name__}: {error}")
    return scores, warnings


def _vertex_errors(mesh: Mesh, views: Views, label: int, scores: dict) -> np.ndarray | None:
    """(v,) distance of each vertex, after the protocol's alignment, to the ground truth; NaN away
    from scored points.
    """
    if label not in scores:
        return None
    from scipy.spatial import KDTree

    from jaxrecon.evaluation.face_protocol import load_ground_truth
    from jaxrecon.geometry.distances import point_to_surface
    from jaxrecon.geometry.transforms import apply_similarity

    score = scores[label]
    moved = np.asarray(apply_similarity(score.similarity, np.asarray(mesh.vertices, np.float32)))
    near = KDTree(score.points).query(moved)[0] < 4.0
    truth, _, _ = load_ground_truth(views.folder, label)
    error = np.full(len(moved), np.nan)
    error[near] = point_to_surface(moved[near].astype(np.float64), truth)[0]
    return error


def _record(views: Views, done: pipeline.Reconstruction, options, scores, warnings) -> dict:
    """What fit.json holds."""
    result = done.result
    preset = pipeline.PRESETS[options.preset]
    cameras = {n: np.asarray(getattr(views.cameras, n)).tolist() for n in ("K", "R", "t")}
    pose = result.S_canonical_world
    return {
        "system": "implicit_deformation",
        "subject": "",  # the output folder's name
        "views": list(views.names),
        "expression": [int(e) for e in views.expression],
        "detections": _sources(views),
        "units": views.units,
        "config": {
            "preset": options.preset,
            "seed": options.seed,
            "colours": options.colours,
            "limit": preset.limit,
            **dataclasses.asdict(done.config),
        },
        "resolution": options.resolution or preset.resolution,
        "weights": str(options.weights)
        if options.weights
        else "released: implicit_deformation_small",
        "cameras": cameras,
        "S_canonical_world": {
            n: np.asarray(getattr(pose, n)).tolist() for n in ("scale", "R", "t")
        },
        "landmark_stage_error_pixels": float(result.landmark_error),
        "losses": {
            k: np.asarray(v, np.float64).round(6).tolist() for k, v in result.history.items()
        },
        "seconds": {k: round(v, 3) for k, v in done.timings.items()},
        "extraction": {str(k): dataclasses.asdict(v) for k, v in done.stats.items()},
        "scores": {str(k): v.summary() for k, v in scores.items()},
        "warnings": warnings,
        "versions": {
            "jaxrecon": jaxrecon.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
        "device": jax.devices()[0].device_kind,
    }
