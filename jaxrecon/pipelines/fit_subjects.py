"""Subjects for the queue of fits: found in folders, checked, and told apart by what they hold."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import jaxrecon
from jaxrecon.errors import InputError
from jaxrecon.fitting.problem import Hyper
from jaxrecon.pipelines import detections
from jaxrecon.pipelines import implicit_deformation as pipeline
from jaxrecon.pipelines.detections import Found
from jaxrecon.pipelines.fit_progress import digest, digest_of_record
from jaxrecon.pipelines.implicit_deformation import Case, Options
from jaxrecon.pipelines.priors import Prior
from jaxrecon.pipelines.views import Views, check_needs, load_views

KEPT_BYTES = 200_000_000
"""Photographs of a subject that take more are read again when they are needed again."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """One subject that can be fitted, without its pixels."""

    name: str
    path: pathlib.Path
    kind: str
    """subjects of one kind can share a batch"""
    inputs: str
    """hash of photographs, masks, cameras, landmarks"""
    found: tuple[Found | None, ...] = ()
    """what a detector found of each view, so that it is asked once"""


def expand(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Folders of subjects as the subjects in them, in the order of their names.

    A folder of subjects holds no images and no cameras.json, but folders that do.

    Raises:
        InputError: two subjects of one name.
    """
    found: list[pathlib.Path] = []
    for path in paths:
        inner = []
        if path.is_dir() and not _is_views_folder(path):
            inner = [p for p in sorted(path.iterdir()) if p.is_dir() and _is_views_folder(p)]
            others = [p.name for p in path.iterdir() if p.is_dir() and p not in inner]
            others = sorted(name for name in others if not name.startswith("."))
            if inner and others:
                say(f"{path}: no photographs in {listed(others)}; left out")
        found += inner or [path]
    names = [pipeline.subject_name(p) for p in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(
            f"several inputs are called {', '.join(twice)}: their results would collide",
            remedy="run them one at a time with different --out",
        )
    return found


def _is_views_folder(path: pathlib.Path) -> bool:
    from jaxrecon.images import SUFFIXES

    if path.name.startswith("."):
        return False
    own = list(path.iterdir())
    return any(
        p.name in ("cameras.json", "landmarks.json") or p.suffix.lower() in SUFFIXES
        for p in own
        if not p.name.startswith(".")
    )


def check(path: pathlib.Path, options: Options, prior: Prior) -> Subject:
    """Load a subject and see whether it can be fitted.

    Raises:
        InputError: it cannot.
    """
    name = pipeline.subject_name(path)
    views, found = load(path, options, tell=lambda sentence: say(f"{name}: {sentence}"))
    case = pipeline.prepare(views, options, prior)
    if options.cameras == "auto" and case.config.cameras.startswith("estimate"):
        say(f"{name}: no cameras.json with R and t, so the cameras are estimated")
    if case.config.cameras == "estimate_focal" and views.film_focal is not None:
        known = ", ".join(f"{x:g}" for x in np.unique(views.film_focal))
        say(f"{name}: the focal length is searched from what the photographs' EXIF data tell: "
            f"{known} mm on 35 mm film")  # fmt: skip
    kind = f"{case.config} {[x.shape for x in jax.tree.leaves(case.data)]}"
    return Subject(name, path, kind, _digest_of_inputs(views), found)


def load(
    path: pathlib.Path,
    options: Options,
    found: Sequence[Found | None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> tuple[Views, tuple[Found | None, ...]]:
    """Views of a folder, or of one photograph, with what a detector found of them.

    Args:
        path: folder or photograph.
        options: which views, and which detector.
        found: of an earlier call, so that no detector is asked again.
        tell: called with each sentence on what was found.

    Raises:
        InputError: of `load_views`; masks or landmarks are missing and cannot be found.
    """
    alone, search = path.is_file(), options.detector != "none"
    views = load_views(path, options.views, partial=search)
    if alone and not search and views.landmarks2d is None:
        raise InputError(
            f"{path}: a photograph alone, and nothing says where the face is in it",
            expected="a folder with the photograph and landmarks.json, 68 points",
            remedy="put both into one folder, with cameras.json if it is known, and give that; or "
            "let a detector find the face (--detector own)",
        )
    found = detections.found_by(views, options.detector) if found is None else tuple(found)
    known, views = len(views.warnings), detections.complete(views, found)
    if tell is not None:
        for sentence in views.warnings[known:]:
            tell(sentence)
    check_needs(views, pipeline.NEEDED)
    return views, found


def _digest_of_inputs(views: Views) -> str:
    """SHA-256 of all that a folder says of its subject, wherever it lies."""
    record, arrays = {}, {}
    for field in dataclasses.fields(views):
        value = getattr(views, field.name)
        if field.name == "ground_truth":
            value = tuple(p and hashlib.sha256(p.read_bytes()).hexdigest() for p in value)
        if isinstance(value, np.ndarray) or dataclasses.is_dataclass(value):
            arrays[field.name] = value
        elif field.name != "folder":
            record[field.name] = repr(value)
    return digest_of_record(record | {"arrays": digest(arrays)})


def settings_of(options: Options, prior: Prior, hyper: Hyper) -> dict[str, Any]:
    """Everything beside the inputs that decides a result, as JSON."""
    preset = pipeline.PRESETS[options.preset]
    return {
        "preset": options.preset,
        "sizes": digest_of_record({"fit": repr(preset.fit), "limit": preset.limit}),
        "resolution": options.resolution or preset.resolution,
        "seed": options.seed,
        "views": None if options.views is None else list(options.views),
        "cameras": options.cameras,
        "colours": options.colours,
        "weights": digest_of_record(prior.header | {"": digest(prior.params, prior.space)}),
        "hyper": digest(hyper),
        "jaxrecon": jaxrecon.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def batches_of(
    subjects: list[Subject], size: int, earlier: Mapping[str, Sequence[str]] | None = None
) -> list[list[Subject]]:
    """Subjects of one kind together, by name, at most `size` in a batch.

    Args:
        subjects: to be put into batches.
        size: of the largest batch.
        earlier: of subjects that are finished, the names of the batch they were fitted in. It is
            kept where all of it is there, for the bits of those that are left; a finished subject
            whose batch cannot be kept is a batch by itself.
    """
    left = {subject.name: subject for subject in sorted(subjects, key=lambda s: s.name)}
    batches: list[list[Subject]] = []
    for name, names in sorted((earlier or {}).items()):
        if name in left:
            lanes = [left[n] for n in dict.fromkeys(names) if n in left]
            whole = left[name] in lanes and len(lanes) == len(names) <= size
            lanes = lanes if whole and len({s.kind for s in lanes}) == 1 else [left[name]]
            left = {n: s for n, s in left.items() if s not in lanes}
            batches.append(lanes)
    kinds: dict[str, list[Subject]] = {}
    for subject in left.values():
        kinds.setdefault(subject.kind, []).append(subject)
    for kind in kinds.values():
        batches += [kind[i : i + size] for i in range(0, len(kind), size)]
    return batches


def case_of(subject: Subject, options: Options, prior: Prior) -> Case:
    """A subject ready to be fitted; photographs that take much memory are left out again (see
    `with_pixels`).
    """
    views, _ = load(subject.path, options, subject.found)
    case = pipeline.prepare(views, options, prior)
    arrays = [getattr(views, f.name) for f in dataclasses.fields(views)]
    if sum(x.nbytes for x in arrays if isinstance(x, np.ndarray)) <= KEPT_BYTES:
        return case
    return dataclasses.replace(case, views=_without_pixels(views))


def _without_pixels(views: Views) -> Views:
    """The same with pictures of one pixel."""
    size = views.images.shape[:3]
    fields = {f.name: getattr(views, f.name) for f in dataclasses.fields(views)}
    cut = {
        name: value[:, :1, :1].copy()
        for name, value in fields.items()
        if isinstance(value, np.ndarray) and value.shape[:3] == size
    }
    return dataclasses.replace(views, **cut)


def with_pixels(subject: Subject, case: Case, options: Options) -> Case:
    """The case with its photographs, read again if they were left out."""
    if case.views.images.shape[1:3] != (1, 1):
        return case
    return dataclasses.replace(case, views=load(subject.path, options, subject.found)[0])


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names with commas, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(text, file=sys.stderr)
