"""`jaxrecon evaluate PREDICTION GROUND_TRUTH`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxrecon.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from jaxrecon.types import Mesh


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a mesh against ground truth."""

    prediction: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(metavar="PREDICTION", help="A mesh, or a folder that fit wrote."),
    ]
    ground_truth: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(metavar="GROUND_TRUTH", help="A views folder with gt meshes, or a mesh."),
    ]
    protocol: Literal["auto", "face", "surface"] = "auto"
    """face: true face surface to prediction, mm, the part that the views see. surface: both ways,
    all of both meshes. auto: face for views folders in millimetres, else surface."""
    views: pathlib.Path | None = None
    """The views folder of a GROUND_TRUTH that is a mesh: cameras for the face protocol."""
    expression: int = 0
    """Which of the folder's expressions the prediction shows."""
    scale: float | None = None
    """Factor of the prediction, such as 1000 from metres to millimetres. If left out: 1000 for a
    glTF file (always in metres) against millimetres, else 1."""
    align: Literal["none", "landmarks", "icp", "similarity"] | None = None
    """none, rigid icp, similarity (icp with scale), or landmarks and then icp. The protocol's own
    if left out: icp for face, none for surface."""
    landmarks: pathlib.Path | None = None
    """JSON with 68 points of the prediction, for --align landmarks."""
    json: bool = False
    """Print one JSON line."""


def run(args: Evaluate) -> int:
    """Print the errors of the prediction."""
    if args.scale is not None and not 0 < args.scale < float("inf"):
        raise InputError(f"--scale {args.scale}", expected="a positive number")
    folder = args.ground_truth if args.ground_truth.is_dir() else args.views
    protocol = args.protocol
    units = None if folder is None else _units(folder)
    if protocol == "auto":
        protocol = "face" if units == "millimetres" else "surface"

    from jaxrecon.geometry.mesh_io import load_mesh

    path = _prediction(args.prediction)
    prediction = load_mesh(path)
    if args.scale is None:
        gltf = path.suffix.lower() in (".glb", ".gltf") and units == "millimetres"
        args = dataclasses.replace(args, scale=1000.0 if gltf else 1.0)
    if protocol == "face":
        result = _face(args, folder, units, prediction)
    else:
        result = _surface(args, units, prediction)
    result = {"protocol": protocol, **result}
    print(json.dumps(result, allow_nan=False) if args.json else _table(result))
    return 0


def _prediction(path: pathlib.Path) -> pathlib.Path:
    """The mesh itself, or the one in a folder that fit wrote."""
    if not path.is_dir():
        return path
    mesh = path / "mesh.ply"
    if not mesh.is_file():
        raise InputError(
            f"no mesh.ply in {path}",
            expected="a mesh file, or the folder of one subject that fit wrote (DIR/SUBJECT)",
        )
    return mesh


def _units(folder: pathlib.Path) -> str:
    from jaxrecon.pipelines import views_metadata

    document = views_metadata.read_json(folder / "cameras.json")
    if document is None:
        raise InputError(
            f"no cameras.json in {folder}",
            expected="a views folder with ground truth, or a mesh",
        )
    return views_metadata.units(folder / "cameras.json", document)


def _face(
    args: Evaluate, folder: pathlib.Path | None, units: str | None, prediction: Mesh
) -> dict[str, Any]:
    import numpy as np

    from jaxrecon.evaluation import face_protocol
    from jaxrecon.geometry.mesh_io import load_mesh
    from jaxrecon.types import Similarity

    if folder is None or units != "millimetres":
        raise InputError(
            "the face protocol was asked for without a views folder in millimetres",
            expected="GROUND_TRUTH, or --views, is a folder with cameras.json and gt meshes",
            remedy="or use --protocol surface",
        )
    landmarks = (
        None if args.landmarks is None else read_landmarks3d(args.landmarks, args.expression)
    )
    align = args.align or "icp"
    if args.ground_truth.is_dir():
        score = face_protocol.score_face(
            prediction,
            folder,
            expression=args.expression,
            scale=args.scale or 1.0,
            align=align,
            landmarks=landmarks,
        )
        return score.summary()
    if align == "landmarks":
        raise InputError(
            "--align landmarks with a mesh as GROUND_TRUTH",
            expected="a views folder whose landmarks.json has landmarks3d",
            remedy="use --align icp",
        )
    truth = load_mesh(args.ground_truth)
    _, centres, marks = face_protocol.load_ground_truth(folder, args.expression)
    nose = None if marks is None else marks[face_protocol.NOSE_TIP]
    if nose is None or not np.isfinite(nose).all():
        nose = truth.vertices[np.argmin(np.linalg.norm(truth.vertices - centres[:1], axis=1))]
    points = face_protocol.visible_points(truth, centres, nose)
    initial: Any = Similarity(np.float64(args.scale), np.eye(3), np.zeros(3))  # pyright: ignore[reportArgumentType]
    return face_protocol.score_points(prediction, points, align=align, initial=initial).summary()


def _surface(args: Evaluate, units: str | None, prediction: Mesh) -> dict[str, Any]:
    from jaxrecon.evaluation.metrics import compare_meshes
    from jaxrecon.geometry.mesh_io import load_mesh

    path = args.ground_truth
    if path.is_dir():
        path = _folder_mesh(path, args.expression)
    # bodies are reported in centimetres, as the papers do
    unit, factor = {"metres": ("cm", 100.0), "millimetres": ("mm", 1.0)}.get(
        units or "", ("unit of the files", 1.0)
    )
    prediction = dataclasses.replace(prediction, vertices=prediction.vertices * args.scale)
    return compare_meshes(
        prediction, load_mesh(path), align=args.align or "none", unit=unit, factor=factor
    )


def _folder_mesh(folder: pathlib.Path, expression: int) -> pathlib.Path:
    """The ground-truth mesh of an expression in a views folder."""
    from jaxrecon.pipelines import views_metadata

    source = folder / "cameras.json"
    entries = views_metadata.entries(source, views_metadata.read_json(source) or {})
    for i, entry in enumerate(entries):
        if views_metadata.expression(source, entry, i) == expression:
            mesh = views_metadata.ground_truth(folder, entry)
            if mesh is not None:
                return mesh
    raise InputError(
        f"{folder} has no ground truth of expression {expression}",
        expected='views with "gt": a mesh file in the folder',
    )


def read_landmarks3d(path: pathlib.Path, expression: int = 0) -> np.ndarray:
    """68 landmarks (68, 3) in JSON: an object whose `landmarks3d` is 68x3, or expressions of that.

    Raises:
        InputError: absent, not such an object, or not finite.
    """
    import numpy as np

    from jaxrecon.pipelines import views_metadata

    document = views_metadata.read_json(path)
    if document is None:
        raise InputError(f"no file {path}", expected="JSON with landmarks3d")
    try:
        points = np.asarray(document.get("landmarks3d"), np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if points.ndim == 3 and 0 <= expression < len(points):
        points = points[expression]
    if points.shape != (68, 3) or not np.isfinite(points).all():
        raise InputError(
            f"{path}: landmarks3d is not 68 finite points",
            expected='{"landmarks3d": [[x, y, z], ... 68 of them]}',
        )
    return points


def _table(result: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", _table(value, indent + "  ")]
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            lines.append(f"{indent}{name:<24}{text}")
    return "\n".join(lines)
