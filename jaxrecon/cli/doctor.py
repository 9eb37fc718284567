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
    from jaxrecon.pipelines.views_overlay import reproject, write_overlays

    views = load_views(path)
    reprojection = reproject(views)
    _print_views(views, reprojection)
    for remark in remarks(views, reprojection):
        print(f"look at this: {remark}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxrecon_")) if out is None else out
    for picture in write_overlays(views, output_folder(folder), reprojection):
        print(f"picture: {picture}")


def _print_views(views: Views, reprojection: Reprojection | None) -> None:
    unit = {"millimetres": "mm", "metres": "m"}.get(views.units or "", "")
    header = ["view", "file", "size", "mask", "field", f"distance {unit}".strip()]
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


def _row(views: Views, i: int, reprojection: Reprojection | None) -> list[str]:
    import numpy as np

    height, width = views.sizes[i]
    row = [views.names[i], f"{width} x {height}"]
    row.append("none" if views.mask is None else f"{_mask_share(views, i):.0%}")
    if views.cameras is None:
        row += ["-", "-"]
    else:
        field = 2 * np.degrees(np.arctan(width / 2 / views.cameras.K[i, 0, 0]))
        row += [f"{field:.1f}", f"{np.linalg.norm(np.asarray(views.cameras.t[i])):.4g}"]
    seen = None if views.landmark_weights is None else int(views.landmark_weights[i].sum())
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


def remarks(views: Views, reprojection: Reprojection | None) -> list[str]:
    """What is allowed but unlikely to be meant, one sentence each."""
    import numpy as np

    found = []
    for i, number in enumerate(views.indices):
        height, width = (int(n) for n in views.sizes[i])
        name = f"view {number} ({views.names[i]})"
        if reprojection is not None and not np.isnan(reprojection.errors[i]).all():
            error = float(np.nanmedian(reprojection.errors[i]))
            if error > max(2.0, 0.01 * width):
                found.append(
                    f"{name}: landmarks are {error:.1f} pixels from where the cameras put them."
                    " Is R camera from world, with OpenCV axes? Is K for this image size? Are the"
                    " landmarks in the order of the views?"
                )
        if views.cameras is not None:
            cx, cy = views.cameras.K[i, 0, 2], views.cameras.K[i, 1, 2]
            if not (0 < cx < width and 0 < cy < height):
                found.append(
                    f"{name}: the principal point ({cx:.0f}, {cy:.0f}) lies outside the image."
                    " Is K for this image size?"
                )
        if views.landmarks2d is not None and views.landmark_weights is not None:
            seen = views.landmarks2d[i][views.landmark_weights[i] > 0]
            outside = ((seen < 0) | (seen > (width, height))).any(axis=-1).sum()
            if outside:
                found.append(f"{name}: {outside} seen landmarks lie outside the image.")
    return found
