"""Render a views-folder subject from a linear head model: photographs with cameras, landmarks and
ground truth.

    python -m data_pipelines.render_head --model ict_head.npz --seed 7 --out DIR

The folder has the layout that `jaxrecon fit` reads: view_NNN.png (RGBA, supersampled; alpha is the
mask, white where it is 0), cameras.json, landmarks.json, gt.ply (gt_e1.ply, ... for further
expressions), meta.json. Everything is a function of the seed and the options. Units are
millimetres; +x is the subject's left, +y up, +z out of the face.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.ground_truth import licence_of, outer_surface, write_ply
from data_pipelines.head_cameras import sample_cameras, visible_points
from data_pipelines.lighting import sample_lighting, shade
from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.mesh_writers import write_whole
from jaxrecon.geometry.rasterise import downsample, interpolate, rasterise, scale_camera
from jaxrecon.models.parametric.face import LinearFaceModel, kept_vertices, load_face_model
from jaxrecon.models.parametric.procedural_albedo import (
    AlbedoParameters,
    albedo_surface,
    flatten,
    sample_parameters,
    unflatten,
    vertex_albedo,
)
from jaxrecon.types import Cameras

NOSE_TIP = 30

EXPRESSIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smile": {"mouthSmile": 0.6, "cheekSquint": 0.35, "mouthDimple": 0.2, "eyeSquint": 0.12},
    "open": {"jawOpen": 0.35, "mouthSmile": 0.15, "browInnerUp": 0.2},
    "surprise": {"browInnerUp": 0.6, "browOuterUp": 0.5, "eyeWide": 0.5, "jawOpen": 0.25},
    "frown": {"browDown": 0.6, "mouthFrown": 0.45, "mouthPress": 0.3},
    "kiss": {"mouthPucker": 0.7, "mouthFunnel": 0.2},
    "sceptic": {"browDown_L": 0.5, "browOuterUp_R": 0.6, "mouthLeft": 0.25},
}
"""Activations by ARKit name; a name without _L or _R means both sides."""


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """What to render."""

    expressions: tuple[str, ...] = ("random",)
    """names of `EXPRESSIONS`, or random; the views are shared out among them in order"""
    views: int = 4
    """number of pictures"""
    size: int = 256
    """height and width, pixels"""
    supersampling: int = 3
    """samples along each side of a pixel"""
    identity_scale: float = 0.8
    """standard deviation of the identity coefficients (clipped at two)"""
    crop_radius: float | None = None
    """keep ground truth whose corners lie within this distance of the nose tip (mm); None keeps
    all
    """
    max_faces: int | None = None
    """decimate the ground truth to this many faces (quadric edge collapses, libigl qslim); None
    keeps all
    """
    albedo: dict[str, float] = dataclasses.field(default_factory=dict)
    """single numbers that replace sampled albedo parameters, by name"""


def expression_weights(
    name: str, names: tuple[str, ...], key: jax.Array | None = None
) -> np.ndarray:
    """Activations (e,) in [0, 1] of a named expression, or of a random one (needs a key).

    Raises:
        InputError: unknown name.
    """
    if name == "random":
        choice, strength = jax.random.split(key)
        options = sorted(EXPRESSIONS)
        name = options[int(jax.random.randint(choice, (), 0, len(options)))]
        scale = float(jax.random.uniform(strength, (), minval=0.6, maxval=1.2))
    else:
        scale = 1.0
    if name not in EXPRESSIONS:
        raise InputError(
            f"expression {name!r}", f"random, {', '.join(EXPRESSIONS)}", "give one of them"
        )
    weights = np.zeros(len(names), np.float32)
    for shape, value in EXPRESSIONS[name].items():
        for i, full in enumerate(names):
            if full == shape or full in (f"{shape}_L", f"{shape}_R"):
                weights[i] = min(value * scale, 1.0)
    return weights


def render_view(
    vertices: jax.Array,
    faces: jax.Array,
    colours: jax.Array,
    camera: Cameras,
    size: int,
    supersampling: int,
) -> np.ndarray:
    """One RGBA picture (size, size, 4) uint8 of vertex colours (v, 3) in [0, 1]."""
    big = size * supersampling
    raster = rasterise(vertices, faces, scale_camera(camera, supersampling), big, big)
    image = downsample(interpolate(raster, faces, colours), raster.mask, supersampling)
    return np.asarray(jnp.round(jnp.clip(image, 0, 1) * 255)).astype(np.uint8)


def _write_json(path: pathlib.Path, value) -> None:
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def _rounded(array, digits: int) -> list:
    return np.round(np.asarray(array, np.float64), digits).tolist()


def sample_albedo(key: jax.Array, overrides: dict[str, float]) -> jax.Array:
    """Sampled albedo parameters (29,), with the named ones replaced (a number fills all of its
    entries).
    """
    named = unflatten(sample_parameters(key))
    unknown = sorted(set(overrides) - {f.name for f in dataclasses.fields(AlbedoParameters)})
    if unknown:
        raise InputError(
            f"albedo parameters {unknown}", "names of AlbedoParameters", "correct the name"
        )
    changes = {n: jnp.full_like(getattr(named, n), v) for n, v in overrides.items()}
    return flatten(dataclasses.replace(named, **changes))


def render_subject(
    model_path: str | os.PathLike,
    seed: int,
    out: str | os.PathLike,
    config: RenderConfig = RenderConfig(),
) -> pathlib.Path:
    """Render a subject into a views folder; the same seed and config give the same files.

    Args:
        model_path: head model .npz with semantic masks (the layout of `ict_head.npz`).
        seed: everything random follows from it.
        out: folder to write (made if absent).
        config: what to render.

    Returns:
        the folder.

    Raises:
        InputError: unusable model or option.
    """
    from PIL import Image

    path, out = pathlib.Path(model_path), pathlib.Path(out)
    if config.views < 1 or config.size < 16 or not config.expressions:
        raise InputError(
            f"{config}", "at least one view and expression, size >= 16", "change the options"
        )
    model: LinearFaceModel = load_face_model(path, None)
    kept = kept_vertices(path, None)
    surface = {name: value[kept] for name, value in albedo_surface(path).items()}
    k_identity, k_expression, k_albedo, k_light, k_camera = jax.random.split(
        jax.random.key(seed), 5
    )

    draw = jax.random.normal(k_identity, (model.identity.shape[0],))
    identity = config.identity_scale * jnp.clip(draw, -2.0, 2.0)
    albedo = vertex_albedo(sample_albedo(k_albedo, config.albedo), surface)
    lighting = sample_lighting(k_light)
    faces = jnp.asarray(model.faces)
    weights = [
        expression_weights(name, model.expression_names, jax.random.fold_in(k_expression, i))
        for i, name in enumerate(config.expressions)
    ]
    shapes = [model.vertices(identity, jnp.asarray(w)) for w in weights]
    landmarks = np.stack([np.asarray(model.landmark_points(s)) for s in shapes])
    # The middle of the head, seen from the front: the nose tip, moved back and up.
    target = landmarks[0, NOSE_TIP] + np.array([0.0, 12.0, -100.0])
    cameras = sample_cameras(k_camera, config.views, config.size, target)

    out.mkdir(parents=True, exist_ok=True)
    views, visible, projected = [], [], []
    for i in range(config.views):
        e = i * len(shapes) // config.views
        camera = jax.tree.map(lambda a: jnp.asarray(a[i], jnp.float32), cameras)  # noqa: B023
        colours = shade(albedo, vertex_normals(shapes[e], faces), lighting)
        image = render_view(shapes[e], faces, colours, camera, config.size, config.supersampling)
        temporary = out / f".view_{i:03d}.partial.png"
        Image.fromarray(image, "RGBA").save(temporary, optimize=True)
        os.replace(temporary, out / f"view_{i:03d}.png")
        centre = jnp.asarray(-cameras.R[i].T @ cameras.t[i], jnp.float32)
        visible.append(
            np.asarray(visible_points(jnp.asarray(landmarks[e]), centre, shapes[e], faces)).tolist()
        )
        x = (landmarks[e] @ cameras.R[i].T + cameras.t[i]) @ cameras.K[i].T
        projected.append(_rounded(x[:, :2] / x[:, 2:], 4))
        views.append(
            {
                "file": f"view_{i:03d}.png",
                "expression": e,
                "gt": _mesh_name(e),
                "K": _rounded(cameras.K[i], 6),
                "R": _rounded(cameras.R[i], 9),
                "t": _rounded(cameras.t[i], 6),
            }
        )
    licence = licence_of(path)
    for e, shape in enumerate(shapes):
        nose = landmarks[e, NOSE_TIP]
        mesh = outer_surface(
            path,
            model,
            np.asarray(shape),
            np.asarray(albedo),
            nose,
            config.crop_radius,
            config.max_faces,
        )
        write_ply(out / _mesh_name(e), *mesh, licence)

    _write_json(
        out / "cameras.json",
        {
            "width": config.size,
            "height": config.size,
            "units": "millimetres",
            "convention": "x_cam = R x_world + t; OpenCV axes (x right, y down, z forward); "
            "pixel centre (row i, col j) at (j+0.5, i+0.5); world in mm",
            "views": views,
        },
    )
    _write_json(
        out / "landmarks.json",
        {
            "order": "iBUG/Multi-PIE 68",
            "valid": [True] * 68,
            "landmarks3d": _rounded(landmarks, 4),
            "landmarks2d": projected,
            "visible": visible,
        },
    )
    used = [
        {
            "name": name,
            "weights": {n: float(v) for n, v in zip(model.expression_names, w, strict=True) if v},
        }
        for name, w in zip(config.expressions, weights, strict=True)
    ]
    _write_json(
        out / "meta.json",
        {
            "source": f"{path.name}, sampled; procedural albedo and lighting",
            "licence": licence,
            "seed": seed,
            "real": False,
            "options": dataclasses.asdict(config),
            "ground_truth": _describe(config),
            "expressions": used,
            "identity": _rounded(identity, 6),
            "lighting": _rounded(lighting, 6),
        },
    )
    return out


def _mesh_name(expression: int) -> str:
    return "gt.ply" if expression == 0 else f"gt_e{expression}.ply"


def _describe(config: RenderConfig) -> str:
    text = "outer surface (face, head and neck, eyeballs)"
    if config.crop_radius is not None:
        text += f", within {config.crop_radius:g} mm of the nose tip"
    if config.max_faces is not None:
        text += f", decimated to at most {config.max_faces} faces"
        text += " (quadric edge collapses, libigl qslim)"
    return text + "; vertex colours are albedo"


def main(argv: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", required=True, help="head model .npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--supersampling", type=int, default=3)
    parser.add_argument(
        "--expressions", nargs="+", default=["random"], help="random " + " ".join(EXPRESSIONS)
    )
    parser.add_argument("--identity-scale", type=float, default=0.8)
    parser.add_argument(
        "--crop-radius", type=float, help="crop the ground truth, mm from the nose tip"
    )
    parser.add_argument("--max-faces", type=int, help="decimate the ground truth")
    parser.add_argument(
        "--albedo", nargs="*", default=[], metavar="NAME=NUMBER", help="e.g. melanin=0.2 scalp=1"
    )
    args = parser.parse_args(argv)
    try:
        albedo = {n: float(v) for n, v in (item.split("=", 1) for item in args.albedo)}
    except ValueError:
        parser.error(f"--albedo {args.albedo}: expected NAME=NUMBER")
    config = RenderConfig(
        expressions=tuple(args.expressions),
        views=args.views,
        size=args.size,
        supersampling=args.supersampling,
        identity_scale=args.identity_scale,
        crop_radius=args.crop_radius,
        max_faces=args.max_faces,
        albedo=albedo,
    )
    try:
        print(render_subject(args.model, args.seed, args.out, config))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
