"""`jaxrecon fit` with tiny sizes, which may be killed: MOMENT VIEWS... and options of the command.

MOMENT is `never`; `saving`: SIGKILL with half of the second save of progress written; `step`:
SIGTERM within a stage, after 20 steps; or `files`: SIGKILL between two files of a subject. Prints
the steps done as they are told.
"""

import functools
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from jaxrecon.cli.main import main
from jaxrecon.pipelines import fit_progress, fit_queue
from jaxrecon.pipelines import implicit_deformation as pipeline
from tests.pipelines.queue_subjects import PRESET


def die() -> None:
    """End this process with no chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def progress_line(stop_at: int, *_):
    """Instead of the pipeline's."""

    def show(stage: str, done: int, total: int, loss: float) -> None:
        print("steps", done, flush=True)
        if done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    return show


def die_while_saving() -> None:
    """Make the second save of progress the last act."""
    write, saves = fit_progress.write_bytes, []

    def write_half(path, data):
        saves.append(path)
        if len(saves) == 2:
            path.with_name(f".{path.stem}.half.tmp{path.suffix}").write_bytes(
                data[: len(data) // 2]
            )
            die()
        write(path, data)

    fit_progress.write_bytes = write_half


def die_between_files() -> None:
    """Two subjects have four files each: let six take their places."""
    replace, placed = os.replace, []

    def replace_some(source, target):
        if pathlib.Path(source).parent.name == ".new" != pathlib.Path(target).parent.name:
            placed.append(target)
            if len(placed) == 7:
                die()
        replace(source, target)

    os.replace = replace_some


if __name__ == "__main__":
    moment = sys.argv[1]
    pipeline.PRESETS["fast"] = PRESET
    pipeline.Options = functools.partial(pipeline.Options, report=False)
    pipeline.progress_line = functools.partial(progress_line, 20 if moment == "step" else -1)
    fit_queue.fit_folders = functools.partial(fit_queue.fit_folders, save_every=0.0)
    {"saving": die_while_saving, "files": die_between_files}.get(moment, lambda: None)()
    sys.exit(main(["fit", *sys.argv[2:]]))
