"""`jaxrecon fit VIEWS... --out DIR`."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated, Literal

import tyro

from jaxrecon.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fit:
    """Reconstruct faces from a few photographs: mesh, GLB and report for each subject."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]],
        tyro.conf.arg(
            metavar="VIEWS",
            help="Folders of photographs with cameras.json and landmarks.json, one per subject.",
            help_behavior_hint="(one or more)",
        ),
    ]
    out: pathlib.Path
    """Where results go: DIR/SUBJECT/mesh.ply, mesh.glb, report.html, fit.json."""
    preset: Literal["fast", "quality"] = "fast"
    """fast for a look, quality for the result."""
    cameras: Literal["given", "estimate"] = "given"
    """given: read cameras.json. estimate: not available yet."""
    views: Annotated[str | None, tyro.conf.arg(metavar="N,N,...")] = None
    """Which views to use, counted from 0, such as 0,1,3. All of them if left out."""
    resolution: int | None = None
    """Cells along the longest side of the extraction grid. The preset's if left out."""
    colours: Literal["photographs", "network"] = "photographs"
    """Of the mesh: the photographs' where they see it, else the rendering network's; or the
    network's alone.
    """
    weights: Annotated[pathlib.Path | None, tyro.conf.arg(metavar="NAME")] = None
    """Your own weights, NAME.safetensors beside NAME.json. The released ones if left out."""
    seed: int = 0
    """Of all randomness; the same seed gives the same result on the same machine."""


def run(args: Fit) -> int:
    """Reconstruct each input in turn and print the path of its report."""
    inputs = _checked_inputs(args.inputs)
    views = parse_views(args.views)
    if args.cameras == "estimate":
        raise InputError(
            "--cameras estimate is not available yet",
            expected="--cameras given",
            remedy="give cameras.json with K, R and t of each view",
        )
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}", expected="a whole number from 0")
    if args.resolution is not None and (args.resolution % 4 or not 16 <= args.resolution <= 1024):
        raise InputError(
            f"--resolution {args.resolution}", expected="a multiple of 4 from 16 to 1024"
        )

    from jaxrecon.pipelines.output import output_folder

    out = output_folder(args.out)

    from jaxrecon.pipelines.implicit_deformation import Options, reconstruct_folder

    options = Options(
        preset=args.preset,
        cameras=args.cameras,
        seed=args.seed,
        views=views,
        resolution=args.resolution,
        weights=args.weights,
        colours=args.colours,
    )
    for path in inputs:
        print(f"report: {reconstruct_folder(path, out, options)}")
    return 0


def parse_views(text: str | None) -> tuple[int, ...] | None:
    """The numbers of `0,1,3`; None stays None.

    Raises:
        InputError: not whole numbers separated by commas.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--views {text}", expected="numbers of views separated by commas, such as 0,1,3"
        ) from error


def _checked_inputs(inputs: tuple[pathlib.Path, ...]) -> tuple[pathlib.Path, ...]:
    """Refuse what would fail late: no input, absent ones, two subjects of one name."""
    if not inputs:
        raise InputError("no VIEWS were given", expected="one or more folders of photographs")
    absent = [str(p) for p in inputs if not p.exists()]
    if absent:
        raise InputError(f"no such folder or image: {', '.join(absent)}", remedy="check the name")
    files = [str(p) for p in inputs if p.is_file()]
    if files:
        raise InputError(
            f"{', '.join(files)}: a file, not a folder",
            expected="folders, one for each subject, with cameras.json and landmarks.json",
            remedy="put the photographs of one subject into a folder, and give the folder; choose "
            "among them with --views",
        )
    names = [p.resolve().name for p in inputs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            f"several inputs are called {', '.join(twice)}: their results would collide",
            remedy="run them one at a time with different --out",
        )
    return inputs
