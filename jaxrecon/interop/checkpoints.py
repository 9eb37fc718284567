"""The published networks that can be imported: what their files are called, and under what licence.

`read` takes any container (PyTorch's two, a plain pickle, an .npz), `import_network` gives our
variables and configurations. Nothing of a file is run, and torch is not needed.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxrecon.archives import open_zip
from jaxrecon.errors import InputError
from jaxrecon.interop.state_dicts import read_npz
from jaxrecon.interop.torch_files import read_checkpoint
from jaxrecon.interop.unpickling import read_pickle, read_start, refusing

_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # LONG1 of torch.save before 1.6
MAX_BYTES = 2 << 30
"""Of a checkpoint of PyTorch: published ones reach 1.5 GB (PIFuHD), and memory keeps to the size of
the file. Plain pickles and .npz end at 1 GiB."""
_EXPECTED = "a checkpoint of PyTorch (.pth, .pt, .tar), a pickle (.pkl), or an .npz of arrays"
Parts = dict[str, tuple[Any, dict]]
"""{part: (configuration, {collection: nested dict of arrays})}."""


def _implicit(name: str) -> Callable[[Mapping[str, Any]], Parts]:
    def run(checkpoint: Mapping[str, Any]) -> Parts:
        from jaxrecon.interop.implicit_networks import IMPORTERS

        parts = IMPORTERS[name](checkpoint)
        return {part: (config, {"params": params}) for part, (config, params) in parts.items()}

    return run


def _regressor(name: str) -> Callable[[Mapping[str, Any]], Parts]:
    def run(checkpoint: Mapping[str, Any]) -> Parts:
        from jaxrecon.interop.regressor_networks import IMPORTERS

        return IMPORTERS[name](checkpoint)

    return run


def _parsing(name: str) -> Callable[[Mapping[str, Any]], Parts]:
    def run(checkpoint: Mapping[str, Any]) -> Parts:
        from jaxrecon.interop.parsing_networks import IMPORTERS

        return IMPORTERS[name](checkpoint)

    return run


@dataclasses.dataclass(frozen=True)
class Network:
    """One published network."""

    run: Callable[[Mapping[str, Any]], Parts]
    """Checkpoint -> parts; imports what it needs."""
    source: str
    """The authors' code, with the commit that was read."""
    files: tuple[str, ...]
    """Names that its checkpoints are published under."""
    licence: str
    """Of the authors; weights may be bound to the terms of their training data besides."""
    uses: tuple[str, ...]
    """Top-level entries of a checkpoint that hold its weights; others are left out."""


NETWORKS: dict[str, Network] = {
    "idr": Network(
        run=_implicit("idr"),
        source="github.com/lioryariv/idr 44959e7",
        files=("latest.pth",),
        licence="MIT",
        uses=("model_state_dict",),
    ),
    "i3dmm-reference": Network(
        run=_implicit("i3dmm-reference"),
        source="github.com/tarun738/i3DMM 84c3acc",
        files=("latest_ref.pth",),
        licence="MIT",
        uses=("model_state_dict",),
    ),
    "deep3d": Network(
        run=_regressor("deep3d"),
        source="github.com/sicxu/Deep3DFaceRecon_pytorch 9167c71",
        files=("epoch_20.pth",),
        licence="MIT; its coefficients are those of BFM 2009, which is for research only",
        uses=("net_recon",),
    ),
    "spin": Network(
        run=_regressor("spin"),
        source="github.com/nkolot/SPIN 2476c43",
        files=("model_checkpoint.pt",),
        licence="BSD-3-Clause; its coefficients are those of SMPL, which is non-commercial",
        uses=("model",),
    ),
    "graphcmr": Network(
        run=_regressor("graphcmr"),
        source="github.com/nkolot/GraphCMR b0ee54f",
        files=("model_checkpoint_h36m_up3d.pt", "gcmr_*.pt"),
        licence="BSD-3-Clause; its coefficients are those of SMPL, which is non-commercial",
        uses=("graph_cnn", "smpl_param_regressor"),
    ),
    "bisenet": Network(
        run=_parsing("bisenet"),
        source="github.com/zllrunning/face-parsing.PyTorch d2e684c",
        files=("79999_iter.pth",),
        licence="MIT; its training pictures, CelebAMask-HQ, are for non-commercial use",
        uses=("state_dict",),
    ),
}
"""Name on the command line -> network."""


def read(path: str | pathlib.Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The dict that a file of weights holds; its content, not its name, says which kind it is.

    Raises:
        InputError: absent, damaged, hostile, larger than `max_bytes`, or of another kind.
    """
    path = pathlib.Path(path)
    with refusing(path, _EXPECTED, "get the file again: it may be cut short"):
        start = read_start(path, max_bytes)
        pickled = start[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle")
        arrays = False
        if start[:2] == b"PK":
            with open_zip(path) as archive:
                arrays = not any(n.endswith("data.pkl") for n in archive.namelist())
    if arrays:
        return dict(read_npz(path))
    if pickled and not start[2:].startswith(_LEGACY_MAGIC):
        return read_pickle(path)
    return read_checkpoint(path, max_bytes)


def import_network(checkpoint: Mapping[str, Any], name: str) -> tuple[dict, dict[str, Any]]:
    """({collection: {part: arrays}}, {part: configuration}) of a checkpoint that `read` returned.

    Raises:
        InputError: keys that are missing or left over, or values that are not that network's.
    """
    if name not in NETWORKS:
        raise InputError(f"no network {name!r}", f"one of {', '.join(NETWORKS)}")
    parts = NETWORKS[name].run(checkpoint)
    return variables_of(parts), {part: config for part, (config, _) in parts.items()}


def variables_of(parts: Parts) -> dict:
    """{collection: {part: arrays}}: the variables of the whole network."""
    tree: dict = {}
    for part, (_, variables) in parts.items():
        for collection, arrays in variables.items():
            tree.setdefault(collection, {})[part] = arrays
    return tree


def left_out(checkpoint: Mapping[str, Any], name: str) -> list[str]:
    """Top-level entries that are no weights: optimisers, epochs, and text beside arrays."""
    uses = NETWORKS[name].uses
    if any(key in checkpoint for key in uses):
        return sorted(str(key) for key in checkpoint if key not in uses)
    return sorted(
        str(key)
        for key, value in checkpoint.items()
        if getattr(getattr(value, "dtype", None), "kind", "") in "US"
    )
