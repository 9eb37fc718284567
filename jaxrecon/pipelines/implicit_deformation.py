"""A face from a few photographs: views folder in, mesh, GLB, report and state out
(implicit_deformation).

`reconstruct_folder` is the command `jaxrecon fit`; `reconstruct` is the same from arrays. Cameras
are given; the world's unit is theirs.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.fitting import fit as fitting
from jaxrecon.fitting.fit import FitResult
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.geometry.cameras import camera_centres
from jaxrecon.geometry.extraction import ExtractionStats, extract
from jaxrecon.geometry.mesh import largest_component
from jaxrecon.geometry.transforms import apply_similarity, invert_similarity
from jaxrecon.pipelines.implicit_deformation_inputs import landmarks_agree, remarks, view_data
from jaxrecon.pipelines.priors import Prior, load_prior
from jaxrecon.pipelines.vertex_colours import network_colours, photograph_colours
from jaxrecon.pipelines.views import Views, load_views
from jaxrecon.types import Cameras, Field, Mesh, field

CUT = -0.88
"""Meshes end at this canonical height (below the chin, above the model's shoulders), capped
flat.
"""
STEPS_A_CALL = 10


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose."""

    preset: str = "fast"
    """fast or quality"""
    cameras: str = "given"
    """only `given` for now"""
    seed: int = 0
    """of the pixels drawn"""
    views: tuple[int, ...] | None = None
    """numbers of the views to use; None for all"""
    resolution: int | None = None
    """voxels along the box; None for the preset's"""
    colours: str = "photographs"
    """of the mesh: `photographs` where they see it and the network elsewhere, or `network` alone"""
    report: bool = True
    """whether to write report.html"""
    weights: pathlib.Path | None = None
    """weights of the prior; None for the released ones"""

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r}", f"one of {sorted(PRESETS)}")
        if self.resolution is not None and (
            self.resolution % 4 or not 16 <= self.resolution <= 1024
        ):
            raise InputError(
                f"resolution {self.resolution}", "a multiple of 4 from 16 to 1024", "such as 256"
            )
        if self.colours not in ("photographs", "network"):
            raise InputError(f"colours {self.colours!r}", "'photographs' or 'network'")
        if self.cameras != "given":
            raise InputError(
                f"cameras {self.cameras!r} is not available yet", "'given'", "write cameras.json"
            )


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes behind a preset's name."""

    fit: FitConfig
    resolution: int


PRESETS = {
    "fast": Preset(FitConfig(), resolution=160),
    "quality": Preset(
        FitConfig(rays=768, switch_steps=20, weight_steps=240, residual_steps=240), resolution=256
    ),
}


@functools.partial(jax.jit, static_argnames=("functions", "config"))
def _begin(functions, params, space, views, key, config, hyper):
    return fitting.begin(functions, params, space, views, key, config, hyper)


@functools.partial(jax.jit, static_argnames=("functions", "config", "steps", "switch"))
def _steps(functions, params, space, setting, state, gates, config, steps, switch):
    return fitting.run_steps(functions, params, space, setting, state, gates, config, steps, switch)


def fit_views(
    prior: Prior,
    views: ViewData,
    key: jax.Array,
    config: FitConfig,
    hyper: Hyper | None = None,
    progress=None,
    landmarks_done=None,
) -> tuple[FitResult, dict[str, float]]:
    """`fitting.fit` in short scans, so that progress shows: (result, seconds of each stage).

    `progress` is called with (stage, done, total, loss); `landmarks_done` with the error of the
    landmark stage in pixels, and may raise.
    """
    hyper = Hyper() if hyper is None else hyper
    timings: dict[str, float] = {}
    clock = time.monotonic()
    setting, state, error = _begin(
        prior.functions, prior.params, prior.space, views, key, config, hyper
    )
    if landmarks_done is not None:
        landmarks_done(float(error))
    jax.block_until_ready(error)
    timings["landmarks"] = time.monotonic() - clock
    plans, history, done = fitting.stages(config), [], 0
    total = sum(plan.steps for plan in plans)
    for plan in plans:
        clock, left, gates = time.monotonic(), plan.steps, fitting.gates_of(plan)
        while left:
            count = min(STEPS_A_CALL, left)
            state, values = _steps(
                prior.functions,
                prior.params,
                prior.space,
                setting,
                state,
                gates,
                config,
                count,
                plan.switch,
            )
            history.append(jax.device_get(values))
            left, done = left - count, done + count
            if progress is not None:
                progress(plan.name, done, total, float(history[-1]["total"][-1]))
        timings[plan.name] = time.monotonic() - clock
    result = fitting.finish(
        prior.functions, prior.params, prior.space, setting, state, history, error
    )
    return result, timings


def clipped(level_set, cut: jax.Array, points: jax.Array) -> jax.Array:
    """The part of a solid above y = cut: max(f, cut - y)."""
    return jnp.maximum(level_set(points), cut - points[..., 1])


def instance_field(prior: Prior, result: FitResult, expression: int = 0) -> Field:
    """One fitted expression as a field in canonical space, cut at the neck."""
    functions = prior.functions
    conditioning = functions.condition(result.params, result.z_id, result.z_exp[expression])
    level_set = jax.tree_util.Partial(functions.level_set, conditioning)
    return field(clipped, level_set, jnp.float32(CUT))


def extract_mesh(
    prior: Prior, result: FitResult, cameras: Cameras, expression: int, resolution: int
) -> tuple[Mesh, ExtractionStats]:
    """Mesh of one expression in the world of the cameras, coloured by the rendering network."""
    mesh, stats = extract(instance_field(prior, result, expression), resolution)
    mesh = largest_component(mesh)
    functions = prior.functions
    conditioning = functions.condition(result.params, result.z_id, result.z_exp[expression])
    layers = functions.condition_colour(result.params, result.z_colour)
    eyes = apply_similarity(result.S_canonical_world, camera_centres(cameras))
    colours = network_colours(functions, conditioning, layers, mesh.vertices, eyes)
    S_world_canonical = jax.tree.map(
        lambda x: np.asarray(x, np.float64), invert_similarity(result.S_canonical_world)
    )
    vertices = mesh.vertices @ S_world_canonical.R.T * S_world_canonical.scale + S_world_canonical.t
    return dataclasses.replace(mesh, vertices=vertices, colours=colours), stats


def add_photographs(mesh: Mesh, views: Views, label: int) -> Mesh:
    """The mesh with the photographs' colours where its expression is seen, the network's
    elsewhere.
    """
    rows = np.flatnonzero(np.asarray(views.expression) == label)
    if views.cameras is None or views.mask is None or mesh.colours is None:
        return mesh
    cameras = Cameras(*(np.asarray(getattr(views.cameras, n))[rows] for n in ("K", "R", "t")))
    subject = views.mask[rows] * views.valid[rows]
    colours, trust = photograph_colours(mesh, views.images[rows], subject, cameras)
    blend = mesh.colours + trust[:, None] * (colours - mesh.colours)
    return dataclasses.replace(mesh, colours=blend.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` returns."""

    meshes: dict[int, Mesh]
    """expression label -> mesh, world units"""
    result: FitResult
    timings: dict[str, float]
    """seconds"""
    stats: dict[int, ExtractionStats]
    """expression label -> of its extraction"""
    warnings: tuple[str, ...]


def reconstruct(
    views: Views,
    options: Options = Options(),
    prior: Prior | None = None,
    progress=None,
    config: FitConfig | None = None,
    hyper: Hyper | None = None,
) -> Reconstruction:
    """Fit and extract one subject.

    Args:
        views: from `load_views`, with cameras, masks and landmarks.
        options: preset, seed, resolution.
        prior: weights; None loads `options.weights`.
        progress: called with (stage, done, total, loss).
        config: step counts and sizes; None for the preset's.
        hyper: loss weights and learning rates; None for the defaults.

    Raises:
        InputError: something needed is missing, or fewer than 20 landmarks are seen.
    """
    prior = load_prior(options.weights) if prior is None else prior
    preset = PRESETS[options.preset]
    data = view_data(views, prior)
    warnings: list[str] = list(remarks(views))
    labels = np.unique(views.expression)
    config = dataclasses.replace(config or preset.fit, expressions=len(labels))
    key = jax.random.key(options.seed)
    size = max(views.images.shape[1:3])
    result, timings = fit_views(
        prior, data, key, config, hyper, progress, functools.partial(landmarks_agree, views, size)
    )
    if not np.isfinite(result.history["total"]).all():
        raise InputError(
            f"{views.folder}: the fit diverged", "consistent cameras, masks and landmarks",
            "run `jaxrecon doctor` on the folder and compare the overlays",
        )  # fmt: skip
    if float(result.landmark_error) * 256.0 / size > 6.0:
        warnings.append(
            f"landmarks disagree with the cameras by {float(result.landmark_error):.1f} pixels: "
            "look at `jaxrecon doctor`"
        )
    clock = time.monotonic()
    resolution = preset.resolution if options.resolution is None else options.resolution
    meshes, stats = {}, {}
    for row, label in enumerate(labels):
        mesh, stats[int(label)] = extract_mesh(prior, result, data.cameras, row, resolution)
        if options.colours == "photographs":
            mesh = add_photographs(mesh, views, int(label))
        meshes[int(label)] = mesh
    timings["extraction"] = time.monotonic() - clock
    return Reconstruction(meshes, result, timings, stats, tuple(warnings))


def progress_line(name: str):
    """A progress callback that prints one line to stderr, with an ETA."""
    began = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(stage: str, done: int, total: int, loss: float) -> None:
        left = (time.monotonic() - began) / max(done, 1) * (total - done)
        if not terminal and done % 50 and done < total:
            return
        end = "\n" if done == total or not terminal else "\r"
        print(
            f"{name}: {stage} {done}/{total}  loss {loss:.4f}  ETA {left:.0f} s   ",
            file=sys.stderr,
            end=end,
        )

    return show


def reconstruct_folder(path: pathlib.Path, out: pathlib.Path, options: Options) -> pathlib.Path:
    """`jaxrecon fit` for one subject: writes OUT/SUBJECT and returns the report (or the mesh
    without one).

    Raises:
        InputError: of `load_views`, `reconstruct` and the writers; nothing existing is touched
            before the end.
    """
    from jaxrecon.pipelines import implicit_deformation_output as output

    views = load_views(path, options.views, need=("cameras", "masks", "landmarks"))
    name = path.resolve().stem if path.is_file() else path.resolve().name
    done = reconstruct(views, options, progress=progress_line(name))
    return output.write(views, done, pathlib.Path(out) / name, options)
