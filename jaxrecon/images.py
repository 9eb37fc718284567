"""Photographs, masks and label images from untrusted files: four formats, a cap on pixels, upright,
colours in [0, 1].
"""

from __future__ import annotations

import os
import pathlib
import warnings

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
"""Of one image; phones make up to 50 million. Pillow's own guard starts at 89 million."""

_THRESHOLD = 128 / 255
_ORIENTATION = 0x0112
_PHOTO, _WIDTH, _HEIGHT, _FILM = 0x8769, 0xA002, 0xA003, 0xA405
"""Tags of EXIF: the table of the photograph; in it its size and its focal length on 35 mm film."""


def read_image(
    path: pathlib.Path,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"] | None]:
    """Colour (float32 sRGB in [0, 1]) and alpha (None where the file has none) of an image.

    The rotation of the EXIF tag is applied; greyscale is repeated; 16-bit greyscale keeps its
    depth. Colour is white where alpha is 0, since what a file holds there is arbitrary.

    Raises:
        InputError: absent, not an image of the four formats, broken, or over `MAX_PIXELS`.
    """
    image = _open(path)
    if image.mode.startswith("I"):  # 16-bit greyscale
        grey = np.asarray(image, np.float32)[..., None] / 65535
        if grey.min() < 0 or grey.max() > 1:
            raise InputError(
                f"{path} holds whole numbers beyond 16 bits",
                expected="8 or 16 bits per channel",
                remedy="convert it to PNG",
            )
        return np.repeat(grey, 3, axis=-1), None
    if image.mode in ("F", "LAB", "HSV"):
        raise InputError(
            f"{path} stores pixels as {image.mode}",
            expected="RGB or greyscale, 8 or 16 bits per channel",
            remedy="convert it to PNG",
        )
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"), np.float32) / 255, None
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    colour, alpha = rgba[..., :3], rgba[..., 3]
    return np.where(alpha[..., None] > 0, colour, np.float32(1)), alpha


def read_mask(path: pathlib.Path) -> Bool[np.ndarray, "h w"]:
    """A black and white image as booleans: True from value 128 of 255; transparent is black.

    Raises:
        InputError: as `read_image`.
    """
    colour, alpha = read_image(path)
    return binary(colour.mean(axis=-1) * (1 if alpha is None else alpha))


def read_indices(path: pathlib.Path) -> Int[np.ndarray, "h w"]:
    """The numbers that a single-channel image stores: grey values, or indices of its palette.

    Numbers of PNG files of 1, 2 and 4 bits per pixel are as stored, not stretched to 255.

    Raises:
        InputError: as `read_image`; not PNG; or pictures of several channels.
    """
    image = _open(path, ("PNG",))  # lossy formats would invent labels along edges
    if image.mode not in ("1", "L", "P", "I;16"):
        raise InputError(
            f"{path} stores pixels as {image.mode}, not as one number",
            expected="one channel of 8 bits, or a palette; the number is the label",
            remedy="save the label numbers as an 8-bit greyscale PNG, before any colouring",
        )
    values = np.asarray(image).astype(np.int64)
    if image.mode == "L":
        values //= 255 // (2 ** min(_png_bits(path), 8) - 1)
    return values


def is_turned(path: pathlib.Path) -> bool:
    """Whether the EXIF tag of a readable image turns or mirrors what the file stores."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken EXIF
        with Image.open(path, formats=FORMATS) as image:
            return image.getexif().get(_ORIENTATION, 1) in range(2, 9)


def film_focal(path: pathlib.Path) -> float | None:
    """Focal length, in mm on 35 mm film, that the EXIF data of a readable image tell; None where
    they tell none from 8 to 800, or belong to a picture of another shape (it was cropped).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                size, tags = sorted(image.size), image.getexif().get_ifd(_PHOTO)
        own = sorted(float(tags[tag]) for tag in (_WIDTH, _HEIGHT) if tag in tags)
        focal = float(tags[_FILM])
    except Exception:  # broken EXIF raises nearly anything
        return None
    cropped = len(own) == 2 and not abs(own[0] * size[1] / (own[1] * size[0] + 1e-9) - 1) < 0.02
    return focal if 8 <= focal <= 800 and not cropped else None


def binary(alpha: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Threshold alpha in [0, 1] at 128 of 255."""
    return alpha >= _THRESHOLD - 1e-6


def _png_bits(path: pathlib.Path) -> int:
    """Bits per channel that the header of a PNG file declares."""
    with open(path, "rb") as file:
        return file.read(25)[24]


def _open(path: pathlib.Path, formats: tuple[str, ...] = FORMATS):
    """The decoded, upright Pillow image."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise InputError(
            f"no image at {path}" + (", which is not a file" if os.path.lexists(path) else ""),
            expected=f"a file: {', '.join(formats)}",
            remedy="check the name",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the cap below is lower
            warnings.simplefilter("ignore", UserWarning)  # broken EXIF
            with Image.open(path, formats=formats) as image:
                _check_size(path, *image.size)
                image.load()
                return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path, str(error)) from error
    except InputError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise InputError(
            f"{path} is not an image we can read ({type(error).__name__}: {error})",
            expected=f"a whole file: {', '.join(formats)}",
            remedy="open it in an image editor and save it again as PNG",
        ) from error


def _check_size(path: pathlib.Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width} x {height} pixels")


def _too_large(path: pathlib.Path, what: str) -> InputError:
    return InputError(
        f"{path} is too large: {what}",
        expected=f"at most {MAX_PIXELS // 10**6} million pixels",
        remedy="scale it down (and K in cameras.json with it)",
    )
