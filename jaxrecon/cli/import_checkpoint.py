"""`jaxrecon import-checkpoint FILE --network NAME --out NAME`."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from typing import Annotated, Literal

import tyro

import jaxrecon
from jaxrecon.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImportCheckpoint:
    """Turn published weights into ours: NAME.safetensors and NAME.json."""

    file: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(metavar="FILE", help="An .npz of a state dict's arrays."),
    ]
    network: Literal["idr", "i3dmm-reference"]
    """What FILE holds. idr: ImplicitNetwork, or all of IDR's model. i3dmm-reference: i3DMM's
    reference shape."""
    out: pathlib.Path
    """Where the weights go, without suffix."""


def run(args: ImportCheckpoint) -> int:
    """Write the imported network."""
    name = args.out.name.removesuffix(".safetensors")
    if not name:
        raise InputError(f"--out {args.out}", expected="a path whose last part names the weights")
    if args.out.parent.exists() and not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.parent} is a file", expected="a folder")

    from jaxrecon.interop.implicit_networks import IMPORTERS
    from jaxrecon.interop.state_dicts import read_npz
    from jaxrecon.interop.weights import save_weights
    from jaxrecon.models.implicit import count_parameters

    state_dict = read_npz(args.file)
    networks = IMPORTERS[args.network](state_dict)
    params = {part: parameters for part, (_, parameters) in networks.items()}
    header = {
        "network": args.network,
        "config": {part: dataclasses.asdict(config) for part, (config, _) in networks.items()},
        "source": {
            "file": args.file.name,
            "sha256": hashlib.sha256(args.file.read_bytes()).hexdigest(),
        },
        "licence": "that of the source",
        "jaxrecon": jaxrecon.__version__,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    base = args.out.with_name(name)
    save_weights(base, {"params": params}, header)
    for part in params:
        print(f"{args.network} {part}: {count_parameters(params[part]):,} parameters")
    left_out = sorted(k for k, v in state_dict.items() if v.dtype.kind in "US")
    if left_out:
        print(f"left out, as text: {', '.join(left_out)}")
    print(f"weights: {base}.safetensors, {base}.json")
    return 0
