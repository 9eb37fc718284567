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
    """Turn published weights into ours: NAME.safetensors and NAME.json. PyTorch is not needed, and
    nothing of FILE is run."""

    file: Annotated[
        tyro.conf.Positional[pathlib.Path],
        tyro.conf.arg(
            metavar="FILE",
            help="A checkpoint of PyTorch (.pth, .pt, .tar), a pickle, or an .npz of arrays.",
        ),
    ]
    network: Literal["idr", "i3dmm-reference", "deep3d", "spin", "graphcmr", "bisenet"]
    """What FILE holds. idr: ImplicitNetwork, or all of IDR's model. i3dmm-reference: i3DMM's
    reference shape. deep3d: Deep3DFaceRecon_pytorch. spin: SPIN. graphcmr: GraphCMR, or PaMIR's
    gcmr file. bisenet: face parsing of face-parsing.PyTorch."""
    out: pathlib.Path
    """Where the weights go, without suffix."""


def run(args: ImportCheckpoint) -> int:
    """Write the imported network."""
    name = args.out.name.removesuffix(".safetensors")
    if not name.strip("."):
        raise InputError(f"--out {args.out}", expected="a path whose last part names the weights")
    if args.out.parent.exists() and not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: {args.out.parent} is a file", expected="a folder")

    from jaxrecon.interop.checkpoints import NETWORKS, import_network, left_out, read
    from jaxrecon.interop.state_dicts import some
    from jaxrecon.interop.weights import save_weights
    from jaxrecon.models.implicit import count_parameters

    checkpoint = read(args.file)
    try:
        tree, configs = import_network(checkpoint, args.network)
    except InputError as error:
        message = error.given if str(args.file) in error.given else f"{args.file}: {error.given}"
        raise InputError(message, error.expected, error.remedy) from error
    network = NETWORKS[args.network]
    with args.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    header = {
        "network": args.network,
        "config": {part: dataclasses.asdict(config) for part, config in configs.items()},
        "source": {"file": args.file.name, "sha256": digest, "authors": network.source},
        "licence": f"that of the source: {network.licence}",
        "jaxrecon": jaxrecon.__version__,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    base = args.out.with_name(name)
    save_weights(base, tree, header)
    for part in configs:
        print(f"{args.network} {part}: {count_parameters(tree['params'][part]):,} parameters")
    rest = left_out(checkpoint, args.network)
    if rest:
        print(f"left out, as no weights: {some(rest)}")
    print(f"weights: {base}.safetensors, {base}.json")
    return 0
