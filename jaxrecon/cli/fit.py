"""`jaxrecon fit VIEWS... --out DIR`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import tyro

from jaxrecon.errors import InputError


@dataclasses.dataclass(frozen=True)
class Fit:
    """Reconstruct faces from a few photographs: mesh, GLB and report for each subject."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]],
        tyro.conf.arg(
            metavar="VIEWS",
            help="Folders of photographs, one for each subject, or folders of such folders: masks, "
            "landmarks.json and cameras.json in them are used, and found where they are not. Or "
            "one photograph; of what lies beside it, masks and labels of its name alone are used.",
            help_behavior_hint="(one or more)",
        ),
    ]
    out: pathlib.Path
    """Where results go: DIR/SUBJECT/mesh.ply, mesh.glb, report.html, fit.json."""
    preset: Literal["fast", "quality"] = "fast"
    """fast for a look, quality for the result. Larger photographs are cut to the head and scaled to
    512 pixels, with quality to 1024.
    """
    cameras: Literal["auto", "given", "refine", "estimate"] = "auto"
    """given: cameras.json is exact. refine: it is right to about a degree and 5 mm. estimate: find
    the cameras, and the focal length where cameras.json has no K. auto: given where cameras.json
    has them, else estimate.
    """
    detector: Literal["own", "none"] = "own"
    """own: landmarks and masks that are missing are found by our own network, and it is said which.
    none: where they are missing is an error.
    """
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
    batch: int = 4
    """How many subjects to fit together at most; fewer take less memory."""
    resume: bool = False
    """Go on where the same command was interrupted or killed, to the same result."""


def run(args: Fit) -> int:
    """Reconstruct all subjects; print the path of each report, and a summary of several."""
    inputs = _checked_inputs(args.inputs)
    views = parse_views(args.views)
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}", expected="a whole number from 0")
    if args.batch < 1:
        raise InputError(f"--batch {args.batch}", expected="a whole number from 1")
    if args.resolution is not None and (args.resolution % 4 or not 16 <= args.resolution <= 1024):
        raise InputError(
            f"--resolution {args.resolution}", expected="a multiple of 4 from 16 to 1024"
        )

    with stop_on_signals() as signals:
        from jaxrecon.pipelines import fit_queue, fit_subjects
        from jaxrecon.pipelines.implicit_deformation import Options

        paths = fit_subjects.expand(inputs)
        several = len(paths) > 1
        options = Options(
            preset=args.preset,
            cameras=args.cameras,
            seed=args.seed,
            views=views,
            resolution=args.resolution,
            weights=args.weights,
            colours=args.colours,
            detector=args.detector,
        )

        def tell(outcome: fit_queue.Outcome) -> None:
            if outcome.error is None:
                print(f"report: {outcome.report}", flush=True)
            elif several:
                print(f"{outcome.name}: {_described(outcome.error)}", file=sys.stderr)

        outcomes = fit_queue.fit_folders(
            paths,
            args.out,
            options,
            batch=args.batch,
            resume=args.resume,
            should_stop=signals.is_set,
            done=tell,
        )
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors and not several:
        raise errors[0]
    if several:
        _summarise(outcomes, len(paths), args.out)
    if signals.number is not None and len(outcomes) < len(paths):
        print("interrupted; run the same command with --resume to go on", file=sys.stderr)
        return 128 + signals.number
    if not errors:
        return 0
    return 2 if all(isinstance(error, InputError) for error in errors) else 1


def _described(error: Exception) -> str:
    if isinstance(error, InputError):
        return f"error: {error}"
    return (
        f"jaxrecon failed: {type(error).__name__}: {str(error)[:500]}\n"
        "This is a fault of jaxrecon, not of your input: fit this subject alone with --debug"
    )


def _summarise(outcomes: list[Any], count: int, out: pathlib.Path) -> None:
    """What became of several subjects."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    earlier = sum(outcome.earlier for outcome in outcomes)
    line = f"{len(outcomes) - len(failed)} of {count} subjects done"
    line += f", {earlier} of them earlier" if earlier else ""
    print(f"{line}: {out}/SUBJECT/report.html")
    for outcome in failed:
        whose = "" if isinstance(outcome.error, InputError) else "fault of jaxrecon: "
        given = getattr(outcome.error, "given", None) or outcome.error
        print(f"  failed: {outcome.name}: {whose}{str(given).splitlines()[0][:200]}")


class Signals:
    """Whether SIGINT or SIGTERM came, and which."""

    number: int | None = None

    def is_set(self) -> bool:
        """Whether one came."""
        return self.number is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Signals]:
    """While the block runs, the first SIGINT or SIGTERM is only noted; a second one ends the
    process at once.
    """
    noted = Signals()

    def note(number: int, frame: Any) -> None:
        if noted.number is not None:
            os._exit(128 + number)  # threads may still compute: do not wait for them
        noted.number = number
        os.write(2, b"\nstopping after this step; once more to stop at once\n")

    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    """Refuse what would fail late: no input, absent ones, photographs one by one."""
    if not inputs:
        raise InputError("no VIEWS were given", expected="one or more folders of photographs")
    absent = [str(p) for p in inputs if not os.path.exists(p)]
    if absent:
        raise InputError(f"no such folder or image: {', '.join(absent)}", remedy="check the name")
    files = [str(p) for p in inputs if not p.is_dir()]
    if files and len(inputs) > 1:
        raise InputError(
            f"{', '.join(files)}: a file, not a folder",
            expected="folders, one for each subject; or one photograph alone",
            remedy="put the photographs of one subject into a folder, and give the folder; choose "
            "among them with --views",
        )
    return inputs
