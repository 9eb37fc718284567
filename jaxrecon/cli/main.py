"""The command line: parse, run one command, and turn errors into messages and exit codes.

Exit codes: 0 done, 2 bad input (one clear message), 1 our fault, 130 interrupted. Only tyro is
loaded to parse; each command imports what it needs.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

import jaxrecon
from jaxrecon.cli import (
    assets,
    cite,
    detect,
    doctor,
    evaluate,
    fit,
    import_cameras,
    import_checkpoint,
    import_model,
)
from jaxrecon.errors import InputError

Command = (
    Annotated[fit.Fit, tyro.conf.subcommand("fit")]
    | Annotated[detect.Detect, tyro.conf.subcommand("detect")]
    | Annotated[evaluate.Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[import_cameras.ImportCameras, tyro.conf.subcommand("import-cameras")]
    | Annotated[import_checkpoint.ImportCheckpoint, tyro.conf.subcommand("import-checkpoint")]
    | Annotated[import_model.ImportModel, tyro.conf.subcommand("import-model")]
    | Annotated[assets.Assets, tyro.conf.subcommand("assets")]
    | Annotated[doctor.Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[cite.Cite, tyro.conf.subcommand("cite")]
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """People and faces in 3D from a few photographs (jaxrecon --version prints the version)."""

    command: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Command]]
    debug: bool = False
    """Show the traceback of an unexpected error."""


_RUN: dict[type, Callable[[Any], int]] = {
    fit.Fit: fit.run,
    detect.Detect: detect.run,
    evaluate.Evaluate: evaluate.run,
    import_cameras.ImportCameras: import_cameras.run,
    import_checkpoint.ImportCheckpoint: import_checkpoint.run,
    import_model.ImportModel: import_model.run,
    assets.Assets: assets.run,
    doctor.Doctor: doctor.run,
    cite.Cite: cite.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit code.

    `--help` and malformed arguments leave through SystemExit, with 0 and 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"jaxrecon {jaxrecon.__version__}")
        return 0
    arguments = tyro.cli(
        Arguments,
        prog="jaxrecon",
        args=argv,
        config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff),
    )
    return _guarded(_RUN[type(arguments.command)], arguments.command, arguments.debug)


def _guarded(run: Callable[[Any], int], command: Any, debug: bool) -> int:
    """The exit code of `run(command)`, with errors told on stderr."""
    try:
        code = run(command)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has left, as in `jaxrecon cite pamir | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(_our_fault(error), file=sys.stderr)
        return 1


def _our_fault(error: Exception) -> str:
    text = f"{type(error).__name__}: {str(error)[:500]}"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return (
            f"out of memory: {text}\n"
            "  remedy:   a smaller --resolution, fewer --views, smaller images, or a larger machine"
        )
    return (
        f"jaxrecon failed: {text}\n"
        "This is a fault of jaxrecon, not of your input. Please report it with the output of\n"
        "`jaxrecon doctor` and of the same command with --debug."
    )
