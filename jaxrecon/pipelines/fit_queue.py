"""Many subjects in one call: checked first, fitted in batches of equal shapes, resumable, and one
that fails does not stop the others (`jaxrecon fit`).

A batch depends on the inputs alone, and every subject has the same key. A batch of which an earlier
call has finished a part is kept, and its finished subjects are fitted once more beside the others,
unless its progress is still there. So a queue that was interrupted and goes on ends with the bits
of one that was not. Subjects that are added make batches of their own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.fitting.problem import Hyper
from jaxrecon.pipelines import fit_batch, fit_progress
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines import implicit_deformation_output as output
from jaxrecon.pipelines.fit_batch import Stopped
from jaxrecon.pipelines.fit_progress import FOLDER, Store, digest_of_record
from jaxrecon.pipelines.fit_subjects import (
    Subject,
    batches_of,
    case_of,
    check,
    listed,
    say,
    settings_of,
    with_pixels,
)
from jaxrecon.pipelines.implicit_deformation import Options
from jaxrecon.pipelines.output import output_folder
from jaxrecon.pipelines.priors import Prior, load_prior

BATCH = 4
"""Subjects fitted together at most."""
FITTING = 0.75
"""Part of a subject's time that its steps take, for the ETA; the rest is meshes and report."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one subject."""

    name: str
    report: pathlib.Path | None = None
    """of the report, or of the mesh without one; None where it failed"""
    error: Exception | None = None
    """why it failed: InputError where the input is to blame"""
    earlier: bool = False
    """whether an earlier run had done it already"""


@dataclasses.dataclass(frozen=True)
class _Queue:
    """What all subjects share."""

    prior: Prior
    out: pathlib.Path
    options: Options
    hyper: Hyper
    settings: dict[str, Any]
    """what decides a result beside the inputs"""
    resume: bool
    should_stop: Callable[[], bool]
    save_every: float

    def made_from(self, subject: Subject) -> dict:
        """What `--resume` compares."""
        return {"options": self.settings, "inputs": subject.inputs}

    def finished(self, subject: Subject) -> output.Finished | None:
        """What there is of a subject that was done with the same options from the same inputs."""
        found = output.finished(self.out / subject.name) if self.resume else None
        return found if found and found.made_from == self.made_from(subject) else None


def fit_folders(
    paths: Sequence[pathlib.Path],
    out: pathlib.Path,
    options: Options = Options(),
    *,
    batch: int = BATCH,
    resume: bool = False,
    prior: Prior | None = None,
    hyper: Hyper | None = None,
    should_stop: Callable[[], bool] | None = None,
    done: Callable[[Outcome], None] | None = None,
    save_every: float = fit_batch.SAVE_EVERY,
) -> list[Outcome]:
    """Fit subjects and write OUT/SUBJECT of each.

    Args:
        paths: of `fit_subjects.expand`.
        out: output folder.
        options: as of `reconstruct`.
        batch: subjects fitted together at most. Its value changes results by rounding only.
        resume: go on where an earlier call stopped, and leave alone what it finished; otherwise
            the progress of an earlier call is dropped.
        prior: weights; None loads `options.weights`.
        hyper: loss weights and rates; None for the defaults.
        should_stop: asked every few steps. If true, progress is saved in OUT/.fit and the call
            returns what is done so far.
        done: called with each outcome as it comes.
        save_every: seconds between two saves of progress.

    Returns:
        outcomes, in the order in which they came; without those not reached when it stopped.

    Raises:
        InputError: options, weights or the output folder are to blame, so that nothing was begun.
    """
    out = output_folder(out)
    prior = load_prior(options.weights) if prior is None else prior
    hyper = Hyper() if hyper is None else hyper
    settings = settings_of(options, prior, hyper)
    stop = should_stop or (lambda: False)
    queue = _Queue(prior, out, options, hyper, settings, resume, stop, save_every)
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if done is not None:
            done(outcome)

    with contextlib.suppress(Stopped):
        subjects = list(_checked(queue, paths, tell))
        earlier = {s.name: found.batch for s in subjects if (found := queue.finished(s))}
        batches = batches_of(subjects, batch, earlier)
        _prepare_folder(queue, batches)
        work = [b for b in (_batch(queue, lanes, tell) for lanes in batches) if b is not None]
        clock, total, begun = time.monotonic(), sum(len(b.lanes) for b in work), 0
        for number, each in enumerate(work):
            several = len(work) > 1
            title = f"batch {number + 1}/{len(work)}: " if several else ""
            left = _overall(clock, begun, len(each.lanes), total) if several else None
            _do_batch(queue, each, pipeline.progress_line(title + each.title, left), tell)
            begun += len(each.lanes)
    with contextlib.suppress(OSError):  # not empty, or never made
        (out / FOLDER).rmdir()
    return outcomes


def _checked(queue: _Queue, paths, tell) -> Iterator[Subject]:
    """The subjects that can be fitted; the others are told of."""
    for number, path in enumerate(paths):
        if queue.should_stop():
            raise Stopped
        if len(paths) > 8 and sys.stderr.isatty():
            print(f"checking {number + 1}/{len(paths)}", file=sys.stderr, end="\r")
        name = pipeline.subject_name(path)
        try:
            yield check(path, queue.options, queue.prior)
        except Exception as error:
            tell(Outcome(name, error=error))


# ---------------------------------------------------------------- resume


def _identity(queue: _Queue, lanes: Sequence[Subject]) -> str:
    """Of a batch: hash of all that decides its results."""
    members = [[s.name, s.inputs, s.kind] for s in lanes]
    return digest_of_record({"options": queue.settings, "subjects": members})


def _prepare_folder(queue: _Queue, batches: list[list[Subject]]) -> None:
    """Say what of an earlier run is used, and drop what is not: never in silence."""
    subjects = [subject for lanes in batches for subject in lanes]
    if queue.resume:
        replaced = []
        for subject in subjects:
            found = output.finished(queue.out / subject.name)
            if found and queue.finished(subject) is None:
                why = _difference(found.made_from, queue, subject)
                replaced.append(f"{subject.name} ({why})")
        if replaced:
            say(f"done earlier, but otherwise, so it is fitted anew: {listed(replaced)}")
    current = {Store(queue.out / FOLDER, _identity(queue, s), ()).path for s in batches}
    mine = {subject.name for subject in subjects}
    for path in sorted((queue.out / FOLDER).glob("*.npz")):
        stored = fit_progress.subjects_of(path)
        if path in current and queue.resume:
            continue
        if path in current or mine & set(stored):
            why = "it is of other options or inputs" if queue.resume else "--resume was not given"
            say(f"stored progress of {listed(stored) or path.name} is dropped: {why}")
            fit_progress.drop(path)


def _difference(made_from: dict, queue: _Queue, subject: Subject) -> str:
    """Why an earlier result is not what was asked for."""
    options = made_from.get("options", {})
    for name, value in queue.settings.items():
        if options.get(name) != value:
            return f"other {name}" if len(str(value)) > 40 else f"{name} {options.get(name)}"
    return "its inputs have changed" if made_from.get("inputs") != subject.inputs else "unknown"


# ---------------------------------------------------------------- fit


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Subjects to be fitted together."""

    lanes: tuple[Subject, ...]
    pending: tuple[Subject, ...]
    """those that are not finished"""
    store: Store

    @property
    def title(self) -> str:
        """Names of the subjects."""
        return listed([s.name for s in self.lanes])


def _batch(queue: _Queue, lanes: Sequence[Subject], tell) -> _Batch | None:
    """A batch without what is finished; None where all is."""
    pending = []
    for subject in lanes:
        found = queue.finished(subject)
        if found is None:
            pending.append(subject)
        else:
            say(f"{subject.name}: done already")
            tell(Outcome(subject.name, found.report, earlier=True))
    store = Store(queue.out / FOLDER, _identity(queue, lanes), tuple(s.name for s in lanes))
    if not pending:
        fit_progress.drop(store.path)
        return None
    return _Batch(tuple(lanes), tuple(pending), store)


def _do_batch(queue: _Queue, batch: _Batch, line, tell) -> None:
    """Fit and write the subjects of one batch; every pending one is told of once."""
    left = {subject.name for subject in batch.pending}

    def tell_once(outcome: Outcome) -> None:
        left.discard(outcome.name)
        tell(outcome)

    try:
        if _fit_and_write(queue, batch, line, tell_once):
            fit_progress.drop(batch.store.path)
    except _AllRefused:
        pass
    except Stopped:
        raise
    except Exception as error:  # the fault of the batch as a whole; its progress stays
        for subject in batch.pending:
            if subject.name in left:
                tell(Outcome(subject.name, error=error))


class _AllRefused(Exception):
    """No pending lane's landmarks agree with its cameras."""


def _fit_and_write(queue: _Queue, batch: _Batch, line, tell) -> bool:
    """Whether the progress of the batch is of no more use."""
    cases = [case_of(subject, queue.options, queue.prior) for subject in batch.lanes]
    refused: set[str] = set()

    def landmarks_done(errors: np.ndarray) -> None:
        for subject, case, error in zip(batch.lanes, cases, errors, strict=True):
            try:
                case.check_landmarks(float(error))
            except InputError as why:
                refused.add(subject.name)
                if subject in batch.pending:
                    tell(Outcome(subject.name, error=why))
        if all(subject.name in refused for subject in batch.pending):
            raise _AllRefused

    fitted = fit_batch.fit_batch(
        queue.prior,
        fit_batch.stack([case.data for case in cases]),
        jax.random.key(queue.options.seed),
        cases[0].config,
        queue.hyper,
        progress=line,
        landmarks_done=landmarks_done,
        store=batch.store,
        notice=lambda text: say(f"{batch.title}: {text}"),
        should_stop=queue.should_stop,
        save_every=queue.save_every,
    )
    finish = functools.partial(_finish, queue, batch, fitted, cases)
    lanes = [i for i, s in enumerate(batch.lanes) if s in batch.pending and s.name not in refused]
    useless, stopped = True, False
    # Meshes, scores and pictures keep one core busy, partly.
    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for outcome, again in pool.map(finish, lanes):
            useless &= not again
            stopped |= outcome is None
            if outcome is not None:
                tell(outcome)
    if stopped:
        raise Stopped
    return useless


def _finish(queue: _Queue, batch: _Batch, fitted, cases, lane: int) -> tuple[Outcome | None, bool]:
    """Meshes and files of one lane: (None where the caller asks to stop, whether trying again with
    the same fit may help).
    """
    subject = batch.lanes[lane]
    if queue.should_stop():
        return None, True
    try:
        result = fitted.result(queue.prior, lane)
        case = with_pixels(subject, cases[lane], queue.options)
        found = pipeline.conclude(
            queue.prior, case, result, fitted.progress.seconds, queue.options, queue.should_stop
        )
    except Stopped:
        return None, True
    except Exception as error:
        return Outcome(subject.name, error=error), not isinstance(error, InputError)
    try:
        names = [s.name for s in batch.lanes]
        folder, made_from = queue.out / subject.name, queue.made_from(subject)
        report = output.write(found, folder, queue.options, made_from, names)
    except Exception as error:  # such as a full disk
        return Outcome(subject.name, error=error), True
    return Outcome(subject.name, report), False


# ---------------------------------------------------------------- words


def _overall(clock: float, before: int, lanes: int, total: int) -> Callable[[float], float]:
    """Part of a batch's steps done -> seconds until all subjects are done."""

    def left(part: float) -> float:
        work = before + FITTING * lanes * part
        return (time.monotonic() - clock) / work * (total - work)

    return left
