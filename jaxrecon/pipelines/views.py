"""The views folder: photographs of one subject, and what is known of them.

Layout (only the images are needed):

- `cameras.json`: `width`, `height`, `units` ("millimetres", "metres" or, for an arbitrary scale,
  "unknown") and `views`, a list of `file` and optionally `K`, `R`, `t`, `expression` (a number, the
  same for views of the same look, or "unknown") and `gt` (mesh file); OpenCV axes,
  x_camera = R x_world + t, pixel centres at +0.5. All views have K, R and t, or all have K alone
  (poses unknown), or none has any. Without any `expression` all views show the same one; a view
  without it, where others have one, is of unknown expression. K, R and t are those of the upright
  picture, after the rotation that an EXIF tag asks for.
- Images named there, or without that file every image of the folder in natural order.
- Masks have three states, subject, background and ignore (no opinion: another person, a hand).
  Subject and background: `NAME_mask.png` (white = subject), else the alpha channel, else the
  labels. Ignore: white in `NAME_ignore.png`, and the labels'.
- `NAME_labels.png`: face parsing, with `labels.json` (see `parsing_labels`).
- `landmarks.json`: `landmarks2d` (views, 68, 2) pixels, `visible` (views, 68), `valid` (68), in
  iBUG order; optionally `confidence` (views, 68), numbers in [0, 1] that a detector gave.

Masks and landmarks that are absent can be found: `pipelines.detections`. Pictures that end in
`_overlay.png` are what `jaxrecon detect` drew, not photographs.

Files are read inside the folder only: links that lead out of it are refused.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon import images as image_files
from jaxrecon.errors import InputError
from jaxrecon.pipelines import views_metadata as metadata
from jaxrecon.pipelines.views_pixels import read_pixels
from jaxrecon.types import Cameras

Need = Literal["cameras", "masks", "landmarks"]
BESIDE = ("_mask", "_ignore", "_labels")
"""Ends of the names, without suffix, of pictures that lie beside a photograph and are none."""


@dataclasses.dataclass(frozen=True)
class Views:
    """Photographs of one subject, on the host. Leading axis: the views chosen.

    Images of different sizes are padded at the right and the bottom to the largest height and
    width, with white, mask 0 and valid False: pixel coordinates, and so K and the landmarks, stay
    as they are in the files.
    """

    folder: pathlib.Path
    names: tuple[str, ...]
    """File name of each image."""
    indices: tuple[int, ...]
    """Number of each view in the folder."""
    sizes: Int[np.ndarray, "v 2"]
    """(height, width) before padding."""
    images: Float[np.ndarray, "v h w 3"]
    """float32 sRGB in [0, 1]."""
    mask: Float[np.ndarray, "v h w"] | None
    """float32, 1 on the subject and 0 elsewhere; None when no view has one."""
    valid: Bool[np.ndarray, "v h w"]
    """False where a pixel says nothing: ignored by the user or by its label, or padding."""
    cameras: Cameras | None
    """NumPy arrays, float64, batch axis v; world unit `units`. None unless all of K, R, t are
    known.
    """
    units: str | None
    """millimetres, metres or unknown; None when no file says anything about poses."""
    landmarks2d: Float[np.ndarray, "v 68 2"] | None
    """float32 pixels; 0 where not valid."""
    landmark_weights: Float[np.ndarray, "v 68"] | None
    """float32, 0 where the landmark is not valid or not seen in that view, else 1, or less where a
    detector is unsure: a fit takes noise / weight as its standard deviation.
    """
    landmark_valid: Bool[np.ndarray, "68"] | None
    """Whether the subject's landmark is known at all (a hidden one still has coordinates)."""
    expression: Int[np.ndarray, " v"]
    """Views of one number show one expression."""
    ground_truth: tuple[pathlib.Path | None, ...]
    """Mesh of each view's expression, where the folder has it."""
    intrinsics: Float[np.ndarray, "v 3 3"] | None = None
    """float64 K, where cameras.json has it, with or without poses."""
    film_focal: Float[np.ndarray, " v"] | None = None
    """mm on 35 mm film, from EXIF, where there is no K and every photograph tells. A hint: of a
    picture that was cropped it may be wrong.
    """
    warnings: tuple[str, ...] = ()
    """What was odd but could be used, one sentence each."""
    has_mask: Bool[np.ndarray, " v"] | None = None
    """Which views have a mask, where only some do; the mask of the others is 0."""
    detections: tuple[Mapping[str, str], ...] = ()
    """Of each view what was not given but found, `landmarks` or `mask`, and by whom; empty where
    all was given (`pipelines.detections`).
    """


def load_views(
    path: str | pathlib.Path,
    select: Sequence[int] | None = None,
    need: Collection[Need] = (),
    partial: bool = False,
) -> Views:
    """Read a views folder, a plain folder of photographs, or one photograph.

    Args:
        path: folder or image. One image is read alone, with the masks and labels of its name; it is
            a warning that cameras.json and landmarks.json, of all of the folder, are not.
        select: numbers of the views to use, in this order; None for all.
        need: what the caller cannot do without.
        partial: whether masks of only some views are accepted (`Views.has_mask`).

    Raises:
        InputError: something is absent, broken or contradictory; the message names the file.
    """
    path = pathlib.Path(path)
    if not os.path.exists(path):  # False, too, for names that no file can have
        raise InputError(
            f"no such folder or image: {path}",
            expected="a folder of photographs, or one photograph",
        )
    single = not path.is_dir()
    folder = path.parent if single else path
    source = folder / "cameras.json"
    document = None if single else metadata.read_json(source)
    if document is None:
        files = [path] if single else list_images(folder)
        entries: list[dict] = [{"file": file.name} for file in files]
    else:
        entries = metadata.entries(source, document)
        files = [metadata.inside(folder, entry["file"], source.name) for entry in entries]
    chosen = _select(select, len(files), folder)
    expression, warnings = metadata.expressions(source, entries, chosen)
    cameras, intrinsics = metadata.cameras(source, entries, chosen)
    names = tuple(files[i].name for i in chosen)
    pixels = read_pixels(
        [files[i] for i in chosen], [entries[i] for i in chosen], document, partial
    )
    marks = None if single else metadata.read_landmarks(folder / "landmarks.json", len(files))
    points = weights = valid = None
    if single:
        warnings += _not_read(path)
    if marks is not None:
        points, weights, valid = (marks[0][list(chosen)], marks[1][list(chosen)], marks[2])
        weights, outside = metadata.hide_outside(points, weights, pixels["sizes"], names)
        few = int((~valid).sum())
        warnings += outside
        if few:
            warnings += (
                f"{few} of the {len(valid)} landmarks are not valid: the fit does without",
            )
    views = Views(
        folder=folder,
        names=names,
        indices=chosen,
        cameras=cameras,
        units=_units(source, document, cameras is not None),
        landmarks2d=points,
        landmark_weights=weights,
        landmark_valid=valid,
        expression=np.array(expression, np.int64),
        ground_truth=tuple(metadata.ground_truth(folder, entries[i]) for i in chosen),
        intrinsics=intrinsics,
        film_focal=_film_focal([files[i] for i in chosen]) if intrinsics is None else None,
        warnings=warnings + _turned([files[i] for i in chosen], intrinsics),
        **pixels,
    )
    check_needs(views, need)
    return views


def _not_read(photograph: pathlib.Path) -> tuple[str, ...]:
    """A warning where files lie beside one photograph that are of a whole folder."""
    files = (photograph.with_name(name) for name in ("landmarks.json", "cameras.json"))
    names = [file.name for file in files if os.path.lexists(file)]
    if not names:
        return ()
    are = "is" if len(names) == 1 else "are"
    return (
        f"{' and '.join(names)} beside {photograph.name} {are} not used for a single photograph: "
        "give the folder, with --views",
    )


def _units(source: pathlib.Path, document: dict | None, needed: bool) -> str | None:
    """The unit that cameras.json names; where it has no poses it need not."""
    if document is None or (not needed and document.get("units") is None):
        return None
    return metadata.units(source, document)


def _turned(files: Sequence[pathlib.Path], intrinsics: np.ndarray | None) -> tuple[str, ...]:
    """A warning when K meets photographs whose stored and upright forms differ."""
    turned = [f.name for f in files if intrinsics is not None and image_files.is_turned(f)]
    if not turned:
        return ()
    return (
        f"{', '.join(turned[:5])}: an EXIF tag turns the stored picture; K, R, t and landmarks are "
        "taken to be those of the upright one",
    )


def _film_focal(files: Sequence[pathlib.Path]) -> np.ndarray | None:
    """Focal lengths on 35 mm film, where all files tell."""
    told = [image_files.film_focal(file) for file in files]
    return None if None in told else np.array(told, np.float64)


def check_needs(views: Views, need: Collection[Need]) -> None:
    """Raise InputError where something needed is absent."""
    remedies = {
        "cameras": (
            views.cameras,
            "cameras.json",
            "`jaxrecon import-cameras` brings those of COLMAP, nerfstudio or IDR; or write it: the "
            "README shows the layout",
        ),
        "masks": (
            views.mask,
            "masks",
            "save the photographs with a transparent background, or add NAME_mask.png files; or "
            "let them be found (`jaxrecon detect`)",
        ),
        "landmarks": (
            views.landmarks2d,
            "landmarks.json",
            "add 68 points per view, or let them be found (`jaxrecon detect`)",
        ),
    }
    lacking = {"cameras": "K, R and t", "landmarks": "valid landmarks"}
    for what in need:
        value, name, remedy = remedies[what]
        if value is None:
            there = what in lacking and (views.folder / name).exists()
            given = f"{views.folder / name} holds no {lacking[what]}" if there else (
                f"{views.folder} has no {name}"
            )  # fmt: skip
            raise InputError(given, remedy=remedy)
    if "masks" in need:
        check_all_masked(views)


def check_all_masked(views: Views) -> None:
    """Raise InputError where some views have a mask and others have none."""
    if views.has_mask is None or views.has_mask.all():
        return
    lacking = [n for n, has in zip(views.names, views.has_mask, strict=True) if not has]
    raise InputError(
        f"{views.folder}: {', '.join(lacking)} have no mask, the other views have",
        expected="a mask for every view",
        remedy=f"add {pathlib.Path(lacking[0]).stem}_mask.png, white on the subject; or let it be "
        "found (`detections.complete_views`)",
    )


# ---------------------------------------------------------------- files


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Images of a folder without their masks, in natural order (view_2 before view_10)."""
    found = [
        metadata.inside(folder, p.name, "a link")
        for p in folder.iterdir()
        if p.suffix.lower() in image_files.SUFFIXES
        and not p.name.startswith(".")
        and not lies_beside(p)
        and p.is_file()
    ]
    if not found:
        raise InputError(
            f"no images in {folder}",
            expected="files that end in " + ", ".join(image_files.SUFFIXES),
            remedy="convert other formats (HEIC, RAW) to PNG or JPEG",
        )
    return sorted(found, key=natural_order)


def lies_beside(path: pathlib.Path) -> bool:
    """Whether a picture is named like what lies beside a photograph: a mask, labels, an overlay."""
    overlay = path.stem.endswith("_overlay") and path.suffix.lower() == ".png"
    return overlay or path.stem.endswith(BESIDE)


def natural_order(path: pathlib.Path) -> list[tuple[bool, int, str]]:
    """Key by the name, in which view_2 comes before view_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]


def _select(select: Sequence[int] | None, count: int, folder: pathlib.Path) -> tuple[int, ...]:
    chosen = tuple(range(count)) if select is None else tuple(int(i) for i in select)
    bad = [i for i in chosen if not 0 <= i < count]
    if bad or not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"cannot use views {','.join(map(str, chosen)) or '(none)'} of {folder}",
            expected=f"different numbers from 0 to {count - 1}",
        )
    return chosen
