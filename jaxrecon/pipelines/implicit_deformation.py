"""A face from a few photographs: views folder in, mesh, GLB, report and state out
(implicit_deformation).

`reconstruct_folder` does one subject, `reconstruct` the same from arrays; both are `prepare`, a fit
and `conclude`. `fit_queue` does the same for many subjects (`jaxrecon fit`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from typing import cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.fitting.fit import FitResult
from jaxrecon.fitting.problem import FitConfig, Hyper, ViewData
from jaxrecon.geometry.cameras import camera_centres
from jaxrecon.geometry.extraction import ExtractionStats, extract
from jaxrecon.geometry.mesh import largest_component
from jaxrecon.geometry.transforms import apply_similarity, invert_similarity
from jaxrecon.pipelines import detections, fit_batch
from jaxrecon.pipelines import implicit_deformation_inputs as inputs
from jaxrecon.pipelines.detections import DetectorChoice
from jaxrecon.pipelines.priors import Prior, load_prior
from jaxrecon.pipelines.vertex_colours import network_colours, photograph_colours
from jaxrecon.pipelines.views import Views, check_needs, load_views
from jaxrecon.types import Cameras, Field, Mesh, field

CUT = -0.88
"""Meshes end at this canonical height (below the chin, above the model's shoulders), capped
flat.
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may choose."""

    preset: str = "fast"
    """fast or quality"""
    cameras: str = "auto"
    """given: cameras.json is exact. refine: it is nearly right. estimate: R and t are found, and
    the focal length where there is no K. auto: given where there are cameras, else estimate.
    """
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
    detector: DetectorChoice = "own"
    """what finds landmarks and masks where views lack them: our own network, or nothing, so that
    it is an error
    """

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
        if self.detector not in get_args(detections.DetectorChoice):
            raise InputError(f"detector {self.detector!r}", "'own' or 'none'")
        if self.cameras not in get_args(inputs.CameraChoice):
            choices = ", ".join(get_args(inputs.CameraChoice))
            raise InputError(f"cameras {self.cameras!r}", f"one of {choices}")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes behind a preset's name."""

    fit: FitConfig
    resolution: int
    """voxels along the box"""
    limit: int = inputs.LIMIT
    """longer side, in pixels, to which larger photographs are cut and scaled for the fit"""


PRESETS = {
    "fast": Preset(FitConfig(), resolution=160),
    "quality": Preset(
        FitConfig(rays=768, switch_steps=20, weight_steps=240, residual_steps=240),
        resolution=256,
        limit=1024,
    ),
}


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
    cameras = jax.tree.map(lambda x: np.asarray(x)[rows], views.cameras)
    subject = views.mask[rows] * views.valid[rows]
    colours, trust = photograph_colours(mesh, views.images[rows], subject, cameras)
    blend = mesh.colours + trust[:, None] * (colours - mesh.colours)
    return dataclasses.replace(mesh, colours=blend.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Case:
    """One subject, checked and ready to be fitted."""

    views: Views
    data: ViewData
    """what the fit looks at"""
    config: FitConfig
    """sizes and camera mode; subjects of equal shapes and configuration can be fitted together"""
    size: int
    """longer side of what the fit looks at, pixels"""
    limit: int
    """of the preset"""
    warnings: tuple[str, ...]

    def check_landmarks(self, error: float) -> None:
        """Raise InputError where the landmark stage (its error in pixels) says that cameras and
        landmarks disagree.
        """
        inputs.landmarks_agree(self.views, self.size, error)


def prepare(views: Views, options: Options, prior: Prior, config: FitConfig | None = None) -> Case:
    """Check a subject and make what a fit takes of it.

    Raises:
        InputError: something needed is missing, or fewer than 20 landmarks are seen.
    """
    mode = inputs.camera_mode(views, cast(inputs.CameraChoice, options.cameras))
    preset = PRESETS[options.preset]
    data = inputs.view_data(views, prior, mode, preset.limit)
    warnings = tuple(inputs.remarks(views))
    expressions = len(np.unique(views.expression))
    config = dataclasses.replace(config or preset.fit, expressions=expressions, cameras=mode)
    size = int(inputs.crops(views, preset.limit).sizes.max())
    return Case(views, data, config, size, preset.limit, warnings)


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
    views: Views
    """the photographs, with the cameras that the fit used or found"""
    config: FitConfig
    """sizes of the fit, and how the cameras were got"""


def conclude(
    prior: Prior,
    case: Case,
    result: FitResult,
    timings: dict[str, float],
    options: Options,
    should_stop: Callable[[], bool] | None = None,
) -> Reconstruction:
    """Meshes of a fitted subject.

    Args:
        prior: weights.
        case: of `prepare`.
        result: of the fit.
        timings: seconds of its stages.
        options: resolution and colours.
        should_stop: asked before each mesh.

    Raises:
        InputError: the fit diverged.
        Stopped: as asked.
    """
    if not np.isfinite(np.asarray(result.history["total"])).all():
        raise InputError(
            f"{case.views.folder}: the fit diverged", "consistent cameras, masks and landmarks",
            "run `jaxrecon doctor` on the folder and compare the overlays",
        )  # fmt: skip
    warnings, error = list(case.warnings), float(result.landmark_error)
    if error * 256.0 / case.size > 6.0:
        warnings.append(
            f"landmarks disagree with the cameras by {error:.1f} pixels: look at `jaxrecon doctor`"
        )
    clock = time.monotonic()
    views, result = inputs.fitted_views(case.views, result, case.config.cameras, prior, case.limit)
    assert views.cameras is not None
    cameras = jax.tree.map(np.float32, views.cameras)
    resolution = options.resolution or PRESETS[options.preset].resolution
    meshes, stats = {}, {}
    for row, label in enumerate(np.unique(views.expression)):
        if should_stop is not None and should_stop():
            raise fit_batch.Stopped
        mesh, stats[int(label)] = extract_mesh(prior, result, cameras, row, resolution)
        if options.colours == "photographs":
            mesh = add_photographs(mesh, views, int(label))
        meshes[int(label)] = mesh
    timings = timings | {"extraction": time.monotonic() - clock}
    return Reconstruction(meshes, result, timings, stats, tuple(warnings), views, case.config)


def reconstruct(
    views: Views,
    options: Options = Options(),
    prior: Prior | None = None,
    progress: Callable[[str, int, int, float], None] | None = None,
    config: FitConfig | None = None,
    hyper: Hyper | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Reconstruction:
    """Fit and extract one subject.

    Args:
        views: from `load_views`, with masks and landmarks (`detections.complete_views` finds them),
            and cameras unless they are estimated.
        options: preset, seed, resolution.
        prior: weights; None loads `options.weights`.
        progress: called with (stage, done, total, loss).
        config: step counts and sizes; None for the preset's.
        hyper: loss weights and learning rates; None for the defaults.
        should_stop: asked every few steps.

    Raises:
        InputError: something needed is missing, fewer than 20 landmarks are seen, cameras and
            landmarks disagree, or the fit diverges.
        Stopped: `should_stop` said so.
    """
    prior = load_prior(options.weights) if prior is None else prior
    case = prepare(views, options, prior, config)
    fitted = fit_batch.fit_batch(
        prior,
        fit_batch.stack([case.data]),
        jax.random.key(options.seed),
        case.config,
        hyper,
        progress=progress,
        landmarks_done=lambda errors: case.check_landmarks(float(errors[0])),
        should_stop=should_stop,
    )
    result, seconds = fitted.result(prior, 0), fitted.progress.seconds
    return conclude(prior, case, result, seconds, options, should_stop)


def progress_line(name: str, all_left: Callable[[float], float] | None = None):
    """A progress callback that prints one line to stderr, with an ETA.

    Args:
        name: shown first.
        all_left: part of this work that is done -> seconds until everything else is, too; shown
            as a second ETA.
    """
    began, first = time.monotonic(), -1
    terminal = sys.stderr.isatty()

    def show(stage: str, done: int, total: int, loss: float) -> None:
        nonlocal first
        if first < 0:  # a resumed fit begins in the middle; its first steps compile
            first = 0 if done <= fit_batch.STEPS_A_CALL else done - fit_batch.STEPS_A_CALL
        left = (time.monotonic() - began) / max(done - first, 1) * (total - done)
        if not terminal and done % 50 and done < total:
            return
        end = "\n" if done == total or not terminal else "\r"
        more = "" if all_left is None else f", all {readable(all_left(done / total))}"
        print(
            f"{name}: {stage} {done}/{total}  loss {loss:.4f}  ETA {readable(left)}{more}   ",
            file=sys.stderr,
            end=end,
        )

    return show


def readable(seconds: float) -> str:
    """Seconds, or minutes where there are many."""
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def reconstruct_folder(path: pathlib.Path, out: pathlib.Path, options: Options) -> pathlib.Path:
    """One subject from its folder: writes OUT/SUBJECT and returns the report (or the mesh without
    one).

    Raises:
        InputError: of `load_views`, `reconstruct` and the writers; nothing existing is touched
            before the end.
    """
    from jaxrecon.pipelines import implicit_deformation_output as output

    views = load_views(path, options.views, partial=options.detector != "none")
    views = detections.complete(views, detections.found_by(views, options.detector))
    check_needs(views, NEEDED)
    name = subject_name(path)
    done = reconstruct(views, options, progress=progress_line(name))
    return output.write(done, pathlib.Path(out) / name, options)


NEEDED = ("masks", "landmarks")
"""What a fit cannot do without, given or found; it says itself when it needs cameras."""


def subject_name(path: pathlib.Path) -> str:
    """Name of the subject of a folder or a photograph."""
    path = path.resolve()
    return path.stem if path.is_file() else path.name
