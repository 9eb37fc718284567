"""`jaxrecon detect PHOTOS... --out DIR`: landmarks, labels, masks and keypoints, to correct by hand
and to fit.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from jaxrecon.pipelines.detections_files import Seen


@dataclasses.dataclass(frozen=True)
class Detect:
    """Find landmarks and face labels in photographs and write a views folder to look at, to correct
    and to fit.
    """

    photos: Annotated[
        tyro.conf.Positional[tuple[pathlib.Path, ...]],
        tyro.conf.arg(
            metavar="PHOTOS",
            help="Photographs of one person, or folders of them.",
            help_behavior_hint="(one or more)",
        ),
    ]
    out: pathlib.Path
    """A new folder: copies of the photographs, landmarks.json, NAME_labels.png, labels.json, and
    NAME_overlay.png to look at.
    """
    person: bool = False
    """Also the whole person: NAME_mask.png and NAME_keypoints.json (OpenPose, BODY_25). A fit of
    the face would take the person's mask for the head's: detect for it without this.
    """


def run(args: Detect) -> int:
    """Detect, and say what was found where."""
    from jaxrecon.pipelines import detections
    from jaxrecon.pipelines.detections_files import detect_photographs, not_taken_over

    for path in args.photos:
        if names := not_taken_over(path):
            more = f" and {len(names) - 4} more" if names[4:] else ""
            where = f"{path} holds" if path.is_dir() else f"beside {path} there is"
            print(
                f"{where} {', '.join(names[:4])}{more}: not taken over; `jaxrecon fit {path}` uses "
                f"{'it' if len(names) == 1 else 'them'} and finds only the rest",
                file=sys.stderr,
            )
    faces = (detections.own_face_detector(),)
    people = (detections.own_person_detector(),) if args.person else ()
    clock = time.monotonic()

    def tell(done: int, total: int, seen: Seen) -> None:
        print(seen.words, file=sys.stdout if seen.kept else sys.stderr, flush=True)
        if done < total:
            left = (time.monotonic() - clock) / done * (total - done)
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{done}/{total}  ETA {left:.0f} s   ", file=sys.stderr, end=end)

    detect_photographs(args.photos, args.out, faces, people, tell)
    print(f"views folder: {args.out}; look at its NAME_overlay.png, correct what is wrong", end="")
    print("" if args.person else f", then\n  jaxrecon fit {args.out} --out DIR")
    return 0
