"""Face parsing as masks of three states: `NAME_labels.png` says subject, background or ignore.

The label of a pixel is its number in the file; `labels.json` beside it says what numbers mean:

- `{"labels": "bisenet"}` or `{"labels": "celebamask-hq"}`: the two common orders of 19 classes;
- `{"labels": ["background", "skin", ...]}`: names, a label's number is its place;
- `{"labels": {"0": "background", "1": "skin", "255": "ignore"}}`: names by number.

There is no default: the two orders share their class names but not their numbers (13 is the lower
lip in one and hair in the other), and a wrong guess would be silent.

What covers the head that a prior knows is ignored (hair, hats, clothes, glasses, jewellery, hands);
the neck is subject, since the fit ends it with a plane of its own.
"""

from __future__ import annotations

import pathlib

import numpy as np
from jaxtyping import Int

from jaxrecon import images as image_files
from jaxrecon.errors import InputError, excerpt
from jaxrecon.pipelines.views_metadata import read_json

SUBJECT, BACKGROUND, IGNORE, UNKNOWN = range(4)

ORDERS = {
    "bisenet": (
        "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear",
        "ear_r", "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
    ),
    "celebamask-hq": (
        "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear",
        "r_ear", "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
    ),
}  # fmt: skip
"""bisenet: github.com/zllrunning/face-parsing.PyTorch. celebamask-hq: the data set's own parser,
github.com/switchablenorms/CelebAMask-HQ, face_parsing/README.md.
"""

_NAMES = {
    SUBJECT: "subject face skin face_skin nose mouth lip lips brow brows eyebrow eyebrows eye eyes "
    "ear ears teeth tongue neck head",
    BACKGROUND: "background bg",
    IGNORE: "ignore void other others hair beard moustache mustache hat cap headwear cloth clothes "
    "clothing glasses eyeglass eyeglasses eye_g earring earrings ear_r necklace neck_l jewellery "
    "hand hands body body_skin accessories",
}
_STATES = {name: state for state, names in _NAMES.items() for name in names.split()}
_SIDES = ("l_", "r_", "u_", "left_", "right_", "upper_", "lower_", "inner_")


def state_of(name: str) -> int:
    """The state of a class by its name: case, side (left, upper) and spaces do not matter."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    if plain in _STATES:
        return _STATES[plain]  # first: l_ and r_ end neck_l (necklace), begin l_eye
    side = next((s for s in _SIDES if plain.startswith(s)), "")
    return _STATES.get(plain.removeprefix(side), UNKNOWN)


def read_table(path: pathlib.Path) -> Int[np.ndarray, "256"]:
    """The state of each label 0 to 255 by `labels.json`; `UNKNOWN` where it names none.

    Raises:
        InputError: absent, broken, or it holds a name or number that we do not know.
    """
    document = read_json(path)
    given = None if document is None else document.get("labels")
    if document is None or given is None:
        raise InputError(
            f"{path.parent} holds NAME_labels.png files, but no {path.name} says what the numbers "
            "mean" if document is None else f'{path} has no "labels"',
            expected='{"labels": ["background", "skin", ...]}: names in the order of the numbers',
            remedy='write that, or {"labels": "bisenet"} (13 is the lower lip, 17 hair) or '
            '{"labels": "celebamask-hq"} (13 is hair)',
        )  # fmt: skip
    table = np.full(256, UNKNOWN)
    for number, name in _numbered(path, given):
        table[number] = state_of(name)
        if table[number] == UNKNOWN:
            raise InputError(
                f"{path}: label {number} is called {excerpt(name)}, a name we do not know",
                expected="; ".join(_NAMES.values()).replace(" ", ", ").replace(";,", ";"),
                remedy='use one of these; "subject", "background" and "ignore" say it directly',
            )
    return table


def _numbered(path: pathlib.Path, given: object) -> list[tuple[int, str]]:
    """(number, name) of each label."""
    if isinstance(given, str) and given.lower() in ORDERS:
        return list(enumerate(ORDERS[given.lower()]))
    pairs: list[tuple[object, object]] = []
    if isinstance(given, list):
        pairs = list(enumerate(given))
    elif isinstance(given, dict):
        pairs = [(int(k) if k.isdecimal() and len(k) < 4 else k, v) for k, v in given.items()]
    found = [(k, v) for k, v in pairs if isinstance(k, int) and k < 256 and isinstance(v, str)]
    if not pairs or len(found) < len(pairs):
        raise InputError(
            f"{path}: labels is {excerpt(given)}",
            expected="a list of names, an object from numbers (0 to 255) to names, or one of "
            + ", ".join(f'"{o}"' for o in ORDERS),
        )
    return found


def read_states(file: pathlib.Path, table: Int[np.ndarray, "256"]) -> Int[np.ndarray, "h w"]:
    """`SUBJECT`, `BACKGROUND` or `IGNORE` of each pixel of a label image.

    Raises:
        InputError: not a single-channel PNG, or a number that the table does not know.
    """
    labels = image_files.read_indices(file)
    states = np.where(labels < 256, table[np.minimum(labels, 255)], UNKNOWN)
    unknown = np.unique(labels[states == UNKNOWN])
    if len(unknown):
        known = np.flatnonzero(table != UNKNOWN)
        raise InputError(
            f"{file} holds the label {unknown[0]}"
            + (f" and {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + ", which labels.json does not name",
            expected="labels among " + ", ".join(map(str, known)),
            remedy="name it in labels.json; save the label numbers themselves, not a picture of "
            "them",
        )
    return states
