"""Face parsing as masks of three states: `NAME_labels.png` says subject, background or ignore.

The label of a pixel is its number in the file; `labels.json` beside it says what numbers mean:

- `{"labels": "bisenet"}` or `{"labels": "celebamask-hq"}`: the two common orders of 19 classes;
- `{"labels": ["background", "skin", ...]}`: names, a label's number is its place;
- `{"labels": {"0": "background", "1": "skin", "255": "ignore"}}`: names by number.

There is no default: the two orders share their class names but not their numbers (13 is the lower
lip in one and hair in the other), and a wrong guess would be silent.

What covers the head that a prior knows is ignored (hair, hats, clothes, glasses, jewellery, hands);
the neck is subject, since the fit ends it with a plane of its own.

The same names give our own labels (`types.FACE_LABELS`) by `face_label`. Ours have no nose (it is
skin), no two lips and no sides; teeth and tongue are the mouth; beards are hair; whatever is worn
or held, or has no place among ours (glasses, earrings, hands), is clothes. So a class has the same
state under its own name and under that of its label. This is how names are read, of files and of
BiSeNet; our own network (`detect.own`) learnt some things otherwise: beards are skin, glasses are
what lies behind them (mark them in `NAME_ignore.png`); hats and scarves are clothes there, too.
"""

from __future__ import annotations

import pathlib

import numpy as np
from jaxtyping import Int, UInt8

from jaxrecon import images as image_files
from jaxrecon.errors import InputError, excerpt
from jaxrecon.interop.json_files import read_json
from jaxrecon.types import FACE_LABELS

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
_FACE_NAMES = {
    "skin": "subject face skin face_skin nose head",
    "lips": "lip lips",
    "brows": "brow brows eyebrow eyebrows",
    "eyes": "eye eyes",
    "ears": "ear ears",
    "hair": "hair beard moustache mustache",
    "neck": "neck",
    "mouth": "mouth teeth tongue",
    "background": "background bg",
}
_FACE_NUMBERS = {
    name: FACE_LABELS.index(label) for label, names in _FACE_NAMES.items() for name in names.split()
}
_SIDES = ("l_", "r_", "u_", "left_", "right_", "upper_", "lower_", "inner_")


def state_of(name: str) -> int:
    """The state of a class by its name: case, side (left, upper) and spaces do not matter."""
    return _STATES.get(_plain(name), UNKNOWN)


def face_label(name: str) -> int | None:
    """The number in `types.FACE_LABELS` of a class by its name, as `state_of`; None: unknown."""
    plain = _plain(name)
    clothes = FACE_LABELS.index("clothes")
    return _FACE_NUMBERS.get(plain, clothes) if plain in _STATES else None


def _plain(name: str) -> str:
    """A name without case and, where it is not part of a known name, without its side."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    if plain in _STATES:
        return plain  # first: l_ and r_ end neck_l (necklace), begin l_eye
    side = next((s for s in _SIDES if plain.startswith(s)), "")
    return plain.removeprefix(side)


def face_labels_of(order: str) -> UInt8[np.ndarray, " n"]:
    """Number in `types.FACE_LABELS` of each number of one of `ORDERS`."""
    return np.array([face_label(name) for name in ORDERS[order]], np.uint8)


def read_table(path: pathlib.Path) -> Int[np.ndarray, "256"]:
    """The state of each label 0 to 255 by `labels.json`; `UNKNOWN` where it names none.

    Raises:
        InputError: absent, broken, or it holds a name or number that we do not know.
    """
    table = np.full(256, UNKNOWN)
    for number, name in _named(path, _given(path)):
        table[number] = state_of(name)
    return table


def read_face_table(path: pathlib.Path, labels: object = None) -> Int[np.ndarray, "256"]:
    """The number in `types.FACE_LABELS` of each label 0 to 255; -1 where none is named.

    Args:
        path: a `labels.json`, or whatever `labels` belongs to, for messages.
        labels: what `"labels"` of such a file would hold; None: read it.

    Raises:
        InputError: absent, broken, or it holds a name or number that we do not know.
    """
    table = np.full(256, -1)
    for number, name in _named(path, _given(path) if labels is None else labels):
        table[number] = face_label(name)
    return table


def _given(path: pathlib.Path) -> object:
    """What `labels.json` says of its labels."""
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
    return given


def _named(path: pathlib.Path, given: object) -> list[tuple[int, str]]:
    """(number, name) of each label; all names are known."""
    pairs = _numbered(path, given)
    for number, name in pairs:
        if state_of(name) == UNKNOWN:
            raise InputError(
                f"{path}: label {number} is called {excerpt(name)}, a name we do not know",
                expected="; ".join(_NAMES.values()).replace(" ", ", ").replace(";,", ";"),
                remedy='use one of these; "subject", "background" and "ignore" say it directly',
            )
    return pairs


def _numbered(path: pathlib.Path, given: object) -> list[tuple[int, str]]:
    """(number, name) of each label."""
    if isinstance(given, str) and given.lower() in ORDERS:
        return list(enumerate(ORDERS[given.lower()]))
    pairs: list[tuple[object, object]] = []
    if isinstance(given, list | tuple):
        pairs = list(enumerate(given))
    elif isinstance(given, dict):  # numbers are text in JSON, and perhaps none in Python
        pairs = [
            (int(k) if isinstance(k, str) and k.isdecimal() and len(k) < 4 else k, v)
            for k, v in given.items()
        ]
    found = [(k, v) for k, v in pairs if type(k) is int and 0 <= k < 256 and isinstance(v, str)]
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
    return _look_up(file, table, UNKNOWN)


def read_face_labels(file: pathlib.Path, table: Int[np.ndarray, "256"]) -> UInt8[np.ndarray, "h w"]:
    """The number in `types.FACE_LABELS` of each pixel of a label image.

    Args:
        file: the label image.
        table: of `read_face_table`.

    Raises:
        InputError: as `read_states`.
    """
    return _look_up(file, table, -1).astype(np.uint8)


def _look_up(file: pathlib.Path, table: np.ndarray, unknown: int) -> np.ndarray:
    """`table` at the labels of an image; none of them may be `unknown`."""
    labels = image_files.read_indices(file)
    values = np.where(labels < 256, table[np.minimum(labels, 255)], unknown)
    missing = np.unique(labels[values == unknown])
    if len(missing):
        known = np.flatnonzero(table != unknown)
        raise InputError(
            f"{file} holds the label {missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + ", which labels.json does not name",
            expected="labels among " + ", ".join(map(str, known)),
            remedy="name it in labels.json; save the label numbers themselves, not a picture of "
            "them",
        )
    return values
