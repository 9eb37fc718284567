"""`jaxrecon import-cameras SOURCE --views FOLDER`: cameras of COLMAP, transforms.json or IDR."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ImportCameras:
    """Write cameras.json of a views folder from COLMAP, NeRF or IDR (docs/how-to/cameras.md)."""

    source: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(
            metavar="SOURCE",
            help="A COLMAP project or sparse model (text, binary), a transforms.json, or IDR's "
            "cameras.npz.",
        ),
    ]
    views: pathlib.Path
    """The folder with the photographs; cameras.json is written there."""
    kind: Literal["auto", "colmap", "transforms", "idr"] = "auto"
    """What SOURCE is."""
    units: Literal["millimetres", "metres", "unknown"] = "unknown"
    """What lengths are measured in after --scale. unknown: the head's size is free."""
    scale: float = 1.0
    """Units for one unit of SOURCE: 1000 for a file in metres and --units millimetres."""
    overwrite: bool = False
    """Replace an existing cameras.json; the former one is kept as cameras.json.bak."""


def run(args: ImportCameras) -> int:
    """Convert, and say what was matched, scaled and left out."""
    from jaxrecon.pipelines.import_cameras import import_cameras

    done = import_cameras(
        args.source, args.views, args.kind, args.units, args.scale, args.overwrite
    )
    for note in done.notes:
        print(f"note: {note}")
    if done.kept is not None:
        print(f"former cameras: {done.kept}")
    if args.units == "unknown":
        print("note: the unit is unknown, so the head's size is free; --units and --scale set it")
    print(f"{len(done.views)} views, {done.kind}: {', '.join(done.views)}")
    print(f"cameras: {done.path}")
    print(f"look at them: jaxrecon doctor {args.views}")
    return 0
