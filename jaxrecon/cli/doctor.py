"""`jaxrecon doctor [VIEWS]`: what is installed, and what a views folder means."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pathlib
import platform
import tempfile
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import jaxrecon
from jaxrecon.errors import InputError

if TYPE_CHECKING:
    from jaxrecon.pipelines.views import Views
    from jaxrecon.pipelines.views_overlay import Reprojection

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "trimesh"),
    *("PyMCubes", "libigl", "embreex", "pillow", "safetensors", "tensorflow-datasets", "grain"),
    *("viser", "opencv-python-headless"),
)


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Show versions, devices and assets; check a views folder and draw what it means."""

    views: Annotated[
        tyro.conf.Positional[pathlib.Path | None],
        tyro.conf.arg(metavar="VIEWS", help="A views folder, or one photograph, to check."),
    ] = None
    out: pathlib.Path | None = None
    """Where pictures of the views go; a new temporary folder if left out."""


def run(args: Doctor) -> int:
    """Print the environment, and the check of the views."""
    if args.out is not None and args.views is None:
        raise InputError("--out without VIEWS", remedy="name the folder to check")
    _print_environment()
    if args.views is not None:
        _check_views(args.views, args.out)
    return 0


def _print_environment() -> None:
    print(f"jaxrecon {jaxrecon.__version__}, Python {platform.python_version()}, {_system()}")
    print("packages: " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    print("devices:  " + _devices())
    root = pathlib.Path(jaxrecon.__file__).parent / "assets"
    files = sorted(
        p for p in root.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".tmp")
    )
    print(f"assets:   {len(files)} files in {root}")
    for path in files:
        print(f"  {path.relative_to(root)}  {path.stat().st_size / 1e6:.2f} MB")


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(absent)"


def _devices() -> str:
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a driver that does not fit, for instance: that is what we report
        return f"jax finds none: {type(error).__name__}: {str(error)[:300]}"
    kinds = sorted({d.device_kind for d in devices})
    return f"{len(devices)} {devices[0].platform} ({', '.join(kinds)})"


def _check_views(path: pathlib.Path, out: pathlib.Path | None) -> None:
    from jaxrecon.pipelines.output import output_folder
    from jaxrecon.pipelines.views import load_views
    from jaxrecon.pipelines.views_frusta import write_frusta
    from jaxrecon.pipelines.views_overlay import reproject, write_overlays
    from jaxrecon.pipelines.views_remarks import missing, remarks

    views = load_views(path, partial=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxrecon_")) if out is None else out
    folder = output_folder(folder)
    views, found = _completed(views, folder)
    reprojection = reproject(views)
    _print_views(views, reprojection)
    for line in missing(views):
        print(f"for a fit: {line}")
    for remark in remarks(views, reprojection):
        print(f"look at this: {remark}")
    pictures = [*write_overlays(views, folder, reprojection), *found]
    together = write_frusta(views, folder, reprojection)
    for picture in pictures if together is None else [together, *pictures]:
        print(f"picture: {picture}")


def _completed(views: Views, folder: pathlib.Path) -> tuple[Views, list[pathlib.Path]]:
    """The views with what a fit would find of them, and pictures of all that was found."""
    from jaxrecon.pipelines import detections
    from jaxrecon.pipelines.detections_drawing import write_detections

    lacking = [i for i in range(len(views.names)) if detections.missing_parts(views, i)]
    if not lacking:
        return views, []
    pictures: list[pathlib.Path] = []

    def draw(i: int, image: Any, found: Any) -> None:
        path = folder / f"doctor_found_{views.indices[i]:03d}.png"
        pictures.append(write_detections(path, image, found))

    parts = [f"{views.names[i]} ({', '.join(detections.missing_parts(views, i))})" for i in lacking]
    more = f" and {len(parts) - 8} more" if parts[8:] else ""
    print(f"not given, so a detector looks for it: {', '.join(parts[:8])}{more}")
    try:
        found = detections.find(views, detections.face_detectors("own"), draw)
        return detections.complete(views, found), pictures
    except InputError as error:
        print(f"look at this: {error}")
        return views, pictures


def _print_views(views: Views, reprojection: Reprojection | None) -> None:
    from jaxrecon.pipelines.views_overlay import unit_name
    from jaxrecon.pipelines.views_remarks import USUAL_EYES_MM, eye_distance

    unit = unit_name(views)
    header = ["view", "file", "size", "mask", "field", f"distance {unit}"]
    rows = [[*header, "landmarks", "error px"]]
    for i, number in enumerate(views.indices):
        rows.append([str(number), *_row(views, i, reprojection)])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    print(f"{views.folder}: {len(views.names)} views")
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())
    print(
        "  mask: share of the picture. field: horizontal field of view, degrees. distance: of the\n"
        "  camera from the world's origin. landmarks: seen ones. error: median distance of those\n"
        "  from their triangulation by all views of the same expression."
    )
    if (eyes := eye_distance(reprojection)) is not None:
        usual = f"{USUAL_EYES_MM[0]:g} to {USUAL_EYES_MM[1]:g} mm"
        print(f"  outer corners of the eyes: about {eyes:.3g} {unit} apart (people: {usual})")


def _row(views: Views, i: int, reprojection: Reprojection | None) -> list[str]:
    import numpy as np

    height, width = views.sizes[i]
    row = [views.names[i], f"{width} x {height}"]
    row.append("none" if views.mask is None else f"{_mask_share(views, i):.0%}")
    K: Any = views.intrinsics
    row.append("-" if K is None else f"{2 * np.degrees(np.arctan(width / 2 / K[i, 0, 0])):.1f}")
    t: Any = None if views.cameras is None else views.cameras.t
    row.append("-" if t is None else f"{np.linalg.norm(t[i]):.4g}")
    seen = None if views.landmark_weights is None else int((views.landmark_weights[i] > 0).sum())
    return [*row, "none" if seen is None else str(seen), _error(reprojection, i)]


def _mask_share(views: Views, i: int) -> float:
    height, width = views.sizes[i]
    mask: Any = views.mask
    return float(mask[i, :height, :width].mean())


def _error(reprojection: Reprojection | None, i: int) -> str:
    import numpy as np

    if reprojection is None or np.isnan(reprojection.errors[i]).all():
        return "-"
    return f"{np.nanmedian(reprojection.errors[i]):.2f}"
