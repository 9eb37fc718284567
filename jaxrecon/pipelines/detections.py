"""What the user did not give is found: landmarks and masks of views, masks and keypoints of people.

Nothing that was given is overwritten, and all that was found is said: in `Views.warnings` (and so
on stderr, in fit.json and in the report) and, by view and part, in `Views.detections`.

A view's mask is found from the parsing, by the rules of `detect.parsing_labels`: hair and clothes
are ignored. Pixels of the foreground that do not hang together with the face are ignored too: they
belong to somebody else, or to nobody.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.detect import parsing_labels
from jaxrecon.detect.detections import Detections, Detector, Face
from jaxrecon.errors import InputError
from jaxrecon.pipelines import views_metadata as metadata
from jaxrecon.pipelines.detections_subject import complete_face
from jaxrecon.pipelines.detections_subject import complete_person as complete_person
from jaxrecon.pipelines.views import Views
from jaxrecon.pipelines.views_subset import chosen_views
from jaxrecon.types import FACE_LABELS

DetectorChoice = Literal["own", "none"]
VISIBLE = 0.5
"""A landmark is seen from this probability on."""
LEAST_WEIGHT = 0.2
"""A landmark that would weigh less is taken as hidden."""
STRAY = 255
"""Label of foreground that does not hang together with the face: ignored."""
LABEL_NAMES = {str(i): name for i, name in enumerate(FACE_LABELS)} | {str(STRAY): "ignore"}
"""What labels.json says of `labels_of`."""


@functools.cache
def own_face_detector() -> Detector:
    """Our face network with its released weights, loaded once."""
    from jaxrecon.detect.own import face_detector

    return face_detector()


@functools.cache
def own_person_detector() -> Detector:
    """Our network of people with its released weights, loaded once."""
    from jaxrecon.detect.own import person_detector

    return person_detector()


def face_detectors(choice: DetectorChoice) -> tuple[Detector, ...]:
    """What looks for faces: our network, or nothing."""
    return (own_face_detector(),) if choice == "own" else ()


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found of one view, reduced to what a fit takes and small enough to be kept."""

    landmarks: Float[np.ndarray, "68 2"] | None = None
    """float32 pixels"""
    weights: Float[np.ndarray, "68"] | None = None
    """float32 in [0, 1], of `landmark_weights`"""
    states: bytes | None = None
    """deflated uint8 states of the pixels (`detect.parsing_labels`), rows first"""
    confidence: float | None = None
    """mean of the seen landmarks'"""
    faces: int = 0
    """how many were seen"""
    box: tuple[float, float, float, float] | None = None
    """of the one that was taken: left, top, right, bottom"""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """landmarks, mask -> words"""


# ---------------------------------------------------------------- views


def complete_views(views: Views, detectors: Sequence[Detector]) -> Views:
    """The views with landmarks and masks where they have none.

    Args:
        views: of `load_views(..., partial=True)`.
        detectors: asked in turn, while something is missing.

    Returns:
        the views; those in which no face was found are left out, with a warning, as long as one
        is left. `landmark_weights` are those of `landmark_weights`.

    Raises:
        InputError: there is no face in any of them, or what was found of a mask is all ignored.
    """
    return complete(views, find(views, detectors))


def found_by(views: Views, choice: DetectorChoice) -> tuple[Found | None, ...]:
    """`find` by the chosen detectors, which are loaded only if something is missing."""
    lacking = any(missing_parts(views, i) for i in range(len(views.names)))
    return find(views, face_detectors(choice) if lacking else ())


def missing_parts(views: Views, i: int) -> tuple[str, ...]:
    """`landmarks` and `mask`, where a view has none."""
    unmasked = views.mask is None or (views.has_mask is not None and not views.has_mask[i])
    lacks = {"landmarks": views.landmarks2d is None, "mask": unmasked}
    return tuple(part for part, lacking in lacks.items() if lacking)


def find(
    views: Views,
    detectors: Sequence[Detector],
    each: Callable[[int, UInt8[np.ndarray, "h w 3"], Detections], None] | None = None,
) -> tuple[Found | None, ...]:
    """What is found of each view; None where nothing is missing, or where there are no detectors.

    Args:
        views: of `load_views`.
        detectors: asked in turn, while something is missing.
        each: called with the place of a view, its photograph and all that was seen in it.
    """
    found: list[Found | None] = []
    for i in range(len(views.names)):
        if not detectors or not missing_parts(views, i):
            found.append(None)
            continue
        image = _photograph(views, i)
        detections = complete_face(image, *_given(views, i), detectors)
        if each is not None:
            each(i, image, detections)
        found.append(reduced(detections, missing_parts(views, i)))
    return tuple(found)


def _photograph(views: Views, i: int) -> UInt8[np.ndarray, "h w 3"]:
    height, width = views.sizes[i]
    return np.round(views.images[i, :height, :width] * 255).astype(np.uint8)


def _given(views: Views, i: int) -> tuple[Any, Any]:
    """(mask, seen landmarks), None where there are none."""
    missing, (height, width) = missing_parts(views, i), views.sizes[i]
    mask = None if views.mask is None or "mask" in missing else views.mask[i, :height, :width]
    if views.landmarks2d is None or views.landmark_weights is None:
        return mask, None
    seen = views.landmarks2d[i][views.landmark_weights[i] > 0]
    return mask, seen if len(seen) > 1 else None


def reduced(detections: Detections, parts: Sequence[str] = ("landmarks", "mask")) -> Found:
    """The best face's landmarks and its mask of three states, of the parts that are wanted.

    A face of which fewer than 20 landmarks are seen places no head: its landmarks count as not
    found.
    """
    face, sources = detections.face, {}
    kept: dict[str, Any] = {"faces": len(detections.faces)}
    if face is not None:
        kept["box"] = tuple(float(x) for x in face.box)
        weights = landmark_weights(face)
        seen = weights > 0
        enough = face.landmarks is not None and seen.sum() >= metadata.MIN_LANDMARKS
        if "landmarks" in parts and enough:
            kept["landmarks"], kept["weights"] = face.landmarks, weights
            if face.confidence is not None:
                kept["confidence"] = float(face.confidence[seen].mean())
            sources["landmarks"] = detections.sources.get("landmarks", "a detector")
    states = states_of(detections) if "mask" in parts else None
    if states is not None:
        kept["states"] = zlib.compress(states.tobytes(), 1)
        part = "mask" if detections.parsing is None else "parsing"
        sources["mask"] = detections.sources.get(part, "a detector")
    return Found(**kept, sources=sources)


def landmark_weights(face: Face) -> Float[np.ndarray, "68"]:
    """How much each landmark counts in a fit, float32 in [0, 1].

    Probability of being seen times confidence; 0, that is hidden, where the probability is below
    `VISIBLE` or the product below `LEAST_WEIGHT`. What a detector does not tell counts as 1. A fit
    takes its landmark noise over the weight as the standard deviation, and estimates how noisy the
    landmarks of a subject are as a whole (`fitting.landmarks.landmark_trust`).
    """
    ones = np.ones(68, np.float32)
    visible = ones if face.visible is None else face.visible
    weights = visible * (ones if face.confidence is None else face.confidence)
    seen = (visible >= VISIBLE) & (weights >= LEAST_WEIGHT)
    return np.where(seen, np.clip(weights, 0, 1), 0).astype(np.float32)


def labels_of(parsing: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The parsing, with `STRAY` where foreground does not hang together with the face: with the
    component (of eight neighbours) that has most of the subject's pixels.
    """
    from scipy import ndimage

    parts = np.zeros(parsing.shape, np.int32)
    count: Any = ndimage.label(parsing != 0, structure=np.ones((3, 3)), output=parts)
    if count < 2:
        return parsing
    subject = _table()[parsing] == parsing_labels.SUBJECT
    main = np.bincount(parts[subject], minlength=count + 1).argmax()
    return np.where((parts == main) | (parts == 0), parsing, STRAY).astype(np.uint8)


@functools.cache
def _table() -> np.ndarray:
    """State of each label of `labels_of`."""
    table = np.full(256, parsing_labels.UNKNOWN, np.uint8)
    for number, name in LABEL_NAMES.items():
        table[int(number)] = parsing_labels.state_of(name)
    return table


def states_of(detections: Detections) -> UInt8[np.ndarray, "h w"] | None:
    """Subject, background or ignore of each pixel, from the parsing, else from the mask; None
    without either, or where nothing is the subject.
    """
    if detections.parsing is not None:
        states = _table()[labels_of(detections.parsing)]
    elif detections.mask is not None:
        subject = detections.mask >= 0.5
        states = np.where(subject, parsing_labels.SUBJECT, parsing_labels.BACKGROUND)
    else:
        return None
    return states.astype(np.uint8) if (states == parsing_labels.SUBJECT).any() else None


def complete(views: Views, found: Sequence[Found | None]) -> Views:
    """The views with what was found of each; see `complete_views`."""
    if all(one is None for one in found):
        return views
    lacking = [_lacks(views, i, one) for i, one in enumerate(found)]
    without = [views.names[i] for i, lacks in enumerate(lacking) if lacks]
    if len(without) == len(views.names):
        raise _no_face(views)
    keep = [i for i, lacks in enumerate(lacking) if not lacks]
    views, kept = chosen_views(views, keep), [found[i] for i in keep]
    why = (
        "no face was found in it, and it has no landmarks or no mask"
        if views.landmarks2d is None
        else "the face at the given landmarks was not parsed, and it has no mask"
    )
    dropped = tuple(f"{name}: {why}: the view is left out" for name in without)
    changes: dict[str, Any] = {
        "has_mask": None,
        "detections": tuple({} if one is None else dict(one.sources) for one in kept),
        "warnings": (*views.warnings, *dropped, *_sentences(views.names, kept)),
    }
    if views.landmarks2d is None:
        changes |= _landmarks(views, kept)
    changes |= _masks(views, kept)
    return dataclasses.replace(views, **changes)


def _lacks(views: Views, i: int, found: Found | None) -> bool:
    """Whether something is still missing."""
    parts = missing_parts(views, i)
    return bool(parts) and (found is None or any(part not in found.sources for part in parts))


def _no_face(views: Views) -> InputError:
    files = [str(views.folder / name) for name in views.names]
    listed = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if files[3:] else "")
    if views.landmarks2d is not None:
        return InputError(
            f"the face at the given landmarks was not parsed: {listed}",
            expected="a mask of each view, or a face that our network sees there",
            remedy=f"give {pathlib.Path(views.names[0]).stem}_mask.png, white on the subject; and "
            "see with `jaxrecon doctor` whether the landmarks are of this picture",
        )
    return InputError(
        f"no face was found in {listed}",
        expected="a face that is seen well (20 landmarks or more) and not too small in the picture",
        remedy="give landmarks.json (68 points a view) and masks, or a closer crop of the "
        "photograph; `jaxrecon doctor` draws what is found",
    )


def _landmarks(views: Views, found: Sequence[Found | None]) -> dict[str, Any]:
    points = np.stack([_of(one).landmarks for one in found]).astype(np.float32)
    weights = np.stack([_of(one).weights for one in found])
    weights, _ = metadata.hide_outside(points, weights, views.sizes, views.names)
    return {
        "landmarks2d": points,
        "landmark_weights": weights.astype(np.float32),
        "landmark_valid": np.ones(68, np.bool_),
    }


def _of(found: Found | None) -> Any:
    assert found is not None
    return found


def _masks(views: Views, found: Sequence[Found | None]) -> dict[str, Any]:
    """Masks of the views for which one was found, beside those that were given."""
    count, height, width = views.images.shape[:3]
    mask = np.zeros((count, height, width), np.float32) if views.mask is None else views.mask.copy()
    valid = views.valid.copy()
    for i, one in enumerate(found):
        if one is None or one.states is None:
            continue
        h, w = views.sizes[i]
        states = np.frombuffer(zlib.decompress(one.states), np.uint8).reshape(h, w)
        mask[i, :h, :w] = states == parsing_labels.SUBJECT
        valid[i, :h, :w] &= states != parsing_labels.IGNORE
        if not ((mask[i] > 0) & valid[i]).any():
            stem = pathlib.Path(views.names[i]).stem
            raise InputError(
                f"everything of the subject that was found in {views.folder / views.names[i]} is "
                "ignored",
                expected=f"a part of the subject that {stem}_ignore.png or a label does not hide",
                remedy=f"mark less, give {stem}_mask.png, or leave the view out",
            )
    return {"mask": mask, "valid": valid}


def _sentences(names: Sequence[str], found: Sequence[Found | None]) -> Iterator[str]:
    """What was found, and by whom."""
    told = [(name, one) for name, one in zip(names, found, strict=True) if one is not None]
    for part, words in (("landmarks", "landmarks"), ("mask", "masks")):
        for source in dict.fromkeys(one.sources[part] for _, one in told if part in one.sources):
            which = [
                name + (_confidence(one) if part == "landmarks" else "")
                for name, one in told
                if one.sources.get(part) == source
            ]
            more = f" and {len(which) - 8} more" if which[8:] else ""
            yield f"{words} were not given; found by {source}: {', '.join(which[:8])}{more}"
    for name, one in told:
        if one.faces > 1 and one.box is not None:
            x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
            place = f"pixel ({x:.0f}, {y:.0f})"
            yield f"{name}: {one.faces} faces were found; the one at {place} is taken"


def _confidence(found: Found) -> str:
    return "" if found.confidence is None else f" (mean confidence {found.confidence:.2f})"
