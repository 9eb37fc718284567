"""Pieces of the report's HTML: pictures as data: URIs, tables, loss curves. All text is escaped."""

from __future__ import annotations

import base64
import html
import io
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxrecon


def data_uri(image: Any, side: int) -> str:
    """A data: URI of a picture, at most `side` pixels along its longest side (JPEG, or PNG
    where it has alpha).
    """
    from PIL import Image

    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = np.round(np.clip(np.nan_to_num(array), 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(array)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if array.shape[-1] == 4:
        picture.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(file, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def figure(image: Any, side: int, alt: str, caption: str) -> str:
    """A picture with its caption below."""
    return (
        f'<figure><img src="{data_uri(image, side)}" alt="{html.escape(alt)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def input_picture(image: Any, mask: Any, landmarks: Any = None) -> np.ndarray:
    """The photograph; what lies outside the mask is faint, and landmarks (k, 2), if given, are
    green dots."""
    array = np.asarray(image)
    if array.dtype != np.uint8:
        array = np.round(np.clip(np.nan_to_num(array), 0, 1) * 255).astype(np.uint8)
    marks = _dots(array, landmarks)
    if mask is None:
        return marks
    share = np.clip(np.asarray(mask, np.float64), 0, 1)
    alpha = np.round((0.22 + 0.78 * share) * 255).astype(np.uint8)
    if array.shape[-1] == 4:
        alpha = np.minimum(alpha, array[..., 3])
    alpha = np.where((marks != array).any(axis=-1), np.uint8(255), alpha)
    return np.concatenate([marks[..., :3], alpha[..., None]], axis=-1)


def _dots(array: np.ndarray, points: Any) -> np.ndarray:
    """A picture with dots at points, as large as to be seen where it is shown."""
    if points is None:
        return array
    from PIL import Image, ImageDraw

    picture = Image.fromarray(array)
    draw, radius = ImageDraw.Draw(picture), max(1.0, 1.5 * max(array.shape[:2]) / 384)
    for x, y in np.asarray(points, np.float64):
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(0, 200, 0))
    return np.asarray(picture)


def number(value: Any) -> str:
    """Four significant digits; text as it is."""
    if isinstance(value, bool | np.bool_) or value is None:
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}" if abs(value) < 1e6 else f"{float(value):.3e}"
    if getattr(value, "shape", None) == ():
        return number(np.asarray(value).item())
    return str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Rows (name, value) of a nested mapping; names of levels are joined by slashes."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{name} / ")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def table(rows: Sequence[tuple[str, Any]], caption: str) -> str:
    """A table of names and values; the caption is for screen readers."""
    body = "".join(
        f'<tr><th scope="row">{html.escape(str(n))}</th><td>{html.escape(number(v))}</td></tr>'
        for n, v in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><tbody>{body}</tbody></table>"


def loss_svg(name: str, values: Any) -> str:
    """One loss curve as inline SVG: logarithmic when all values are positive and span more than
    a factor of ten.
    """
    y = np.asarray(values, np.float64).reshape(-1)
    x = np.arange(len(y))
    keep = np.isfinite(y)
    lost = int((~keep).sum())
    x, y = x[keep], y[keep]
    if len(y) == 0:
        label = f"{html.escape(name)}: no finite values"
        return f'<figure class="curve"><figcaption>{label}</figcaption></figure>'
    log = bool((y > 0).all() and y.max() > 10 * y.min())
    pick = np.unique(np.linspace(0, len(x) - 1, min(len(x), 400)).round().astype(int))
    height = np.log10(y[pick]) if log else y[pick]
    low, high = float(height.min()), float(height.max())
    span = (high - low) or 1.0
    steps = max(int(x[-1]), 1)
    points = " ".join(
        f"{40 + 270 * a / steps:.1f},{108 - 96 * (b - low) / span:.1f}"
        for a, b in zip(x[pick], height, strict=True)
    )
    text = f"{name}: {y[0]:.4g} to {y[-1]:.4g}" + (" (log scale)" if log else "")
    if lost:
        text += f", {lost} values are not finite"
    label = html.escape(text)
    return (
        f'<figure class="curve"><svg viewBox="0 0 320 130" role="img" aria-label="loss {label}">'
        '<path d="M40 12V108H310" class="axis"/>'
        f'<text x="36" y="18" text-anchor="end">{y[pick].max():.2g}</text>'
        f'<text x="36" y="110" text-anchor="end">{y[pick].min():.2g}</text>'
        f'<text x="310" y="124" text-anchor="end">{int(x[-1]) + 1} steps</text>'
        f'<polyline points="{points}"/></svg><figcaption>{label}</figcaption></figure>'
    )


def losses_section(losses: Mapping[str, Any]) -> str:
    """The section of loss curves; empty without losses."""
    if not losses:
        return ""
    curves = "".join(loss_svg(str(name), values) for name, values in losses.items())
    return f'<section id="losses"><h2>Losses</h2><div class="curves">{curves}</div></section>'


def timings_section(timings: Mapping[str, float]) -> str:
    """The section of seconds per stage, with bars; empty without timings."""
    if not timings:
        return ""
    seconds = {str(n): float(s) for n, s in timings.items()}
    longest = max([s for s in seconds.values() if math.isfinite(s)] + [1e-9])
    rows = []
    for name, s in seconds.items():
        share = 100 * min(max(s, 0.0), longest) / longest if math.isfinite(s) else 0.0
        rows.append(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{s:.2f} s</td>'
            f'<td class="bar"><div style="width:{share:.1f}%"></div></td></tr>'
        )
    rows.append(
        '<tr class="total"><th scope="row">total</th>'
        f"<td>{sum(seconds.values()):.2f} s</td><td></td></tr>"
    )
    body = f'<table class="wide"><tbody>{"".join(rows)}</tbody></table>'
    return f'<section id="timings"><h2>Time</h2>{body}</section>'


def default_versions() -> dict[str, str]:
    """Versions of what made the result, and its device."""
    import jax

    return {
        "jaxrecon": jaxrecon.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }
