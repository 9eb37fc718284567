"""A report on one reconstruction: a single HTML file that opens anywhere, offline.

Nothing in it is fetched: pictures, the mesh and the viewer are inside. The page itself (style,
viewer) is `report_template.html`; this module fills it.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.resources
import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxrecon
from jaxrecon.errors import InputError
from jaxrecon.pipelines.output import atomic
from jaxrecon.pipelines.report_parts import (
    data_uri,
    default_versions,
    figure,
    flat,
    input_picture,
    losses_section,
    table,
    timings_section,
)
from jaxrecon.pipelines.report_pictures import (
    CLAY,
    colour_map,
    error_limit,
    mesh_normals,
    normal_maps,
    orbit_cameras,
    render_mesh_views,
    simplify,
    turntable,
)
from jaxrecon.types import Cameras, Mesh

__all__ = ["ReportData", "normal_maps", "render_mesh_views", "turntable", "write_report"]

MAX_BYTES = 5_000_000
MAX_VIEWS = 16
ERROR_BUTTON = '<button type="button" data-mode="error" aria-pressed="false">Error</button>'


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What a report shows; pictures are (h, w, 3 or 4), uint8 or floats in [0, 1], one per view."""

    mesh: Mesh
    """the result, in the world of the cameras"""
    title: str = "Reconstruction"
    names: Sequence[str] = ()
    """name of each view; default: view 0, view 1, ..."""
    images: Any = ()
    """(n, ...) array or sequence: input photographs"""
    masks: Any = None
    """(h, w) per view, in [0, 1] or bool: the subject"""
    landmarks: Any = None
    """(k, 2) pixels, or None, per view: drawn as dots"""
    captions: Any = None
    """text, or None for the usual one, per view: under the photograph"""
    cameras: Cameras | None = None
    """batch (n,): where renders and normal maps are None, they are made with these at the size
    of the images
    """
    renders: Any = None
    """the result from the same cameras"""
    render_caption: str = "reconstruction"
    """shown under the renders: say where their colours come from"""
    normals: Any = None
    """normal maps from the same cameras, see `normal_maps`"""
    losses: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """name -> (steps,) values"""
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """stage -> seconds"""
    metrics: Mapping[str, Any] | None = None
    """name -> number or text, possibly nested; None without ground truth"""
    error: Any = None
    """(v,) distance of each vertex to the ground truth in `error_unit`; NaN where it is not
    defined
    """
    error_unit: str = "mm"
    unit: str = "millimetres"
    """of the mesh's coordinates"""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """settings, JSON-like"""
    versions: Mapping[str, str] | None = None
    """default: of jaxrecon, jax, numpy and Python, and the device"""
    warnings: Sequence[str] = ()
    citation: str = ""
    """what to cite (BibTeX)"""


def write_report(path: str | os.PathLike, data: ReportData) -> pathlib.Path:
    """Write the report, self-contained and below 5 MB (pictures and the mesh get coarser until it
    is).

    Args:
        path: the HTML file; replaced as a whole.
        data: what to show.

    Returns:
        the path.

    Raises:
        InputError: the mesh is empty or unsound, or the lists' lengths disagree.
    """
    data = _complete(data)
    page = ""
    for side, faces in ((384, 150_000), (256, 80_000), (160, 40_000), (96, 20_000)):
        page = render_page(data, side, faces)
        if len(page.encode()) < MAX_BYTES:
            break
    with atomic(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return pathlib.Path(path)


def _complete(data: ReportData) -> ReportData:
    """Defaults made explicit and lengths checked."""
    count = len(data.images)
    names = tuple(data.names) or tuple(f"view {i}" for i in range(count))
    changes: dict[str, Any] = {"names": names}
    if data.cameras is not None and count:
        height, width = np.shape(data.images[0])[:2]
        for field, function in (("renders", render_mesh_views), ("normals", normal_maps)):
            if getattr(data, field) is None:
                changes[field] = function(data.mesh, data.cameras, height, width)
    data = dataclasses.replace(data, **changes)
    for field in ("names", "masks", "landmarks", "captions", "renders", "normals"):
        value = getattr(data, field)
        if value is not None and len(value) != count:
            raise InputError(
                f"{len(value)} {field} for {count} images", "one per image", "give all or none"
            )
    if data.error is not None and np.shape(data.error) != (len(data.mesh.vertices),):
        raise InputError(
            f"errors of shape {np.shape(data.error)} for {len(data.mesh.vertices)} vertices",
            "one per vertex",
        )
    return data


def render_page(data: ReportData, side: int = 384, max_faces: int = 150_000) -> str:
    """The whole HTML page.

    Args:
        data: what to show.
        side: longest side of a picture, pixels.
        max_faces: faces of the mesh in the viewer.
    """
    template = importlib.resources.files("jaxrecon.pipelines").joinpath("report_template.html")
    model, note = mesh_payload(data, max_faces)
    values = {
        "title": html.escape(data.title),
        "subtitle": _subtitle(data),
        "warnings": _warnings(data.warnings),
        "error_button": ERROR_BUTTON if data.error is not None else "",
        "mesh_note": html.escape(note),
        "colour_bar": _colour_bar(data),
        "turntable": _turntable(data, side),
        "views": _views(data, side),
        "metrics": _metrics(data, side),
        "losses": losses_section(data.losses),
        "timings": timings_section(data.timings),
        "details": _details(data),
        "mesh_json": script_json(model),
    }
    # One pass: text of the user that looks like a place holder stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template.read_text(encoding="utf-8"))


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no `<`, so nothing can close it."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


# ---------------------------------------------------------------- the mesh


def mesh_payload(data: ReportData, max_faces: int) -> tuple[dict[str, Any], str]:
    """The mesh for the viewer and a note on it.

    Layout of `data` (base64 of zlib): positions uint16 (v, 4) between `low` and `high` (fourth
    unused), normals int8 (v, 4) over 127, colours uint8 (v, 4), error colours uint8 (v, 4) if
    `error`, and the vertex indices int32 (f, 3), each as the difference to the one before.
    """
    vertices = np.asarray(data.mesh.vertices, np.float64)
    faces = np.asarray(data.mesh.faces, np.int64)
    normals = mesh_normals(data.mesh).astype(np.float64)
    if data.mesh.colours is None:
        colours = np.broadcast_to(np.asarray(CLAY), vertices.shape)
    else:
        colours = np.asarray(data.mesh.colours, np.float64)[:, :3]
    attributes = [normals, colours]
    if data.error is not None:
        error = np.asarray(data.error, np.float64)
        attributes.append(colour_map(error / error_limit(error)))
    before = len(faces)
    vertices, faces, attributes = simplify(vertices, faces, attributes, max_faces)
    note = f"{len(data.mesh.vertices):,} vertices, {before:,} faces"
    if len(faces) < before:
        note += f"; shown with {len(faces):,} faces"

    low, high = vertices.min(0), vertices.max(0)
    extent = np.where(high > low, high - low, 1.0)
    length = np.linalg.norm(attributes[0], axis=1, keepdims=True)
    attributes[0] = attributes[0] / np.where(length > 0, length, 1.0)
    parts = [
        _four(np.round((vertices - low[None]) / extent[None] * 65535), "<u2"),
        _four(np.round(attributes[0] * 127), "i1"),
        *(_four(np.round(np.clip(a, 0, 1) * 255), "u1") for a in attributes[1:]),
        np.diff(faces.reshape(-1), prepend=0).astype("<i4").tobytes(),
    ]
    payload = {
        "vertices": len(vertices),
        "faces": len(faces),
        "low": low.tolist(),
        "high": (low + extent).tolist(),
        "coloured": data.mesh.colours is not None,
        "error": data.error is not None,
        "data": base64.b64encode(zlib.compress(b"".join(parts), 9)).decode(),
    }
    return payload, note


def _four(values: np.ndarray, dtype: str) -> bytes:
    """(v, 3) padded to four components: WebGL wants aligned vertices."""
    padded = np.zeros((len(values), 4), dtype)
    padded[:, :3] = values
    return padded.tobytes()


# ---------------------------------------------------------------- pictures


def _views(data: ReportData, side: int) -> str:
    if not len(data.images):
        return ""
    rows = []
    for i, name in enumerate(data.names[:MAX_VIEWS]):
        mask = None if data.masks is None else data.masks[i]
        caption = "photograph" if mask is None else "photograph (faint outside the mask)"
        marks = None if data.landmarks is None else data.landmarks[i]
        caption = (None if data.captions is None else data.captions[i]) or caption
        picture = input_picture(data.images[i], mask, marks)
        cells = [figure(picture, side, f"{name}: input photograph", caption)]
        if data.renders is not None:
            cells.append(
                figure(
                    data.renders[i],
                    side,
                    f"{name}: render of the reconstruction",
                    data.render_caption,
                )
            )
        if data.normals is not None:
            cells.append(figure(data.normals[i], side, f"{name}: normal map", "normals"))
        rows.append(f'<h3>{html.escape(name)}</h3><div class="row">{"".join(cells)}</div>')
    more = len(data.names) - MAX_VIEWS
    if more > 0:
        rows.append(f"<p>{more} more views are not shown.</p>")
    return f'<section id="views"><h2>Views</h2>{"".join(rows)}</section>'


def _turntable(data: ReportData, side: int) -> str:
    pictures = turntable(data.mesh, 8, min(side, 200))
    images = "".join(
        f'<img src="{data_uri(p, side)}" alt="reconstruction turned by {45 * i} degrees">'
        for i, p in enumerate(pictures)
    )
    return f'<div class="strip">{images}</div>'


# ---------------------------------------------------------------- sections


def _subtitle(data: ReportData) -> str:
    extent = np.ptp(np.asarray(data.mesh.vertices, np.float64), axis=0)
    size = " × ".join(f"{e:.4g}" for e in extent)
    photographs = (
        f"{len(data.images)} photograph{'' if len(data.images) == 1 else 's'} · "
        if len(data.images)
        else ""
    )
    return html.escape(f"{photographs}{size} {data.unit} · jaxrecon {jaxrecon.__version__}")


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{html.escape(w)}</li>" for w in warnings)
    return (
        '<aside class="warnings" aria-label="warnings"><strong>Please note</strong>'
        f"<ul>{items}</ul></aside>"
    )


def _colour_bar(data: ReportData) -> str:
    """Legend of the error colours, shown with the error map."""
    if data.error is None:
        return ""
    limit = error_limit(np.asarray(data.error, np.float64))
    unit = html.escape(data.error_unit)
    stops = ", ".join(
        f"rgb({r},{g},{b})"
        for r, g, b in np.round(colour_map(np.linspace(0, 1, 9)) * 255).astype(int)
    )
    ticks = "".join(f"<span>{limit * i / 4:.3g}</span>" for i in range(5))
    return (
        f'<div class="colourbar" role="img" aria-label="colour bar from 0 to {limit:.3g} {unit}">'
        f'<div style="background:linear-gradient(to right, {stops})"></div>'
        f'<div class="ticks">{ticks}</div>'
        f"<p>distance to the ground truth, {unit} (grey: not measured)</p></div>"
    )


def _metrics(data: ReportData, side: int) -> str:
    if data.metrics is None and data.error is None:
        return ""
    parts = ['<section id="metrics"><h2>Against the ground truth</h2><div class="two">']
    if data.metrics is not None:
        parts.append(table(flat(data.metrics), "Metrics"))
    if data.error is not None:
        error = np.asarray(data.error, np.float64)
        painted = dataclasses.replace(
            data.mesh, colours=colour_map(error / error_limit(error)).astype(np.float32)
        )
        size = min(side, 200)
        cameras = orbit_cameras(painted, np.radians([-35.0, 0, 35]), size)
        pictures = render_mesh_views(painted, cameras, size, size)
        images = "".join(
            f'<img src="{data_uri(pictures[i], side)}" alt="error map, {where}">'
            for i, where in (
                (0, "from the subject's right"),
                (1, "front"),
                (2, "from the subject's left"),
            )
        )
        parts.append(f'<div><div class="strip three">{images}</div>{_colour_bar(data)}</div>')
    return "".join(parts) + "</div></section>"


def _details(data: ReportData) -> str:
    settings = json.dumps(data.config, indent=2, default=str, ensure_ascii=False)
    versions = data.versions if data.versions is not None else default_versions()
    parts = ['<section id="details"><h2>Details</h2>']
    if data.config:
        parts.append(
            f"<details><summary>Settings</summary><pre>{html.escape(settings)}</pre></details>"
        )
    rows = table(list(versions.items()), "Versions")
    parts.append(f"<details><summary>Versions</summary>{rows}</details>")
    if data.citation:
        cite = html.escape(data.citation)
        parts.append(f"<details><summary>How to cite</summary><pre>{cite}</pre></details>")
    return "".join(parts) + "</section>"
