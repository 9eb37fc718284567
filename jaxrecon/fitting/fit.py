"""Test-time latent optimisation: a face from a few views, one scanned loop, vmapped over subjects.

    result = fit(functions, params, space, views, key, config)  # one subject
    batch = jax.vmap(partial(fit, functions), in_axes=(None, None, 0, 0, None))(...)  # many

Stages (Sec. 3.4 of the paper; iteration counts fixed in `FitConfig`): landmarks; then PCA weights
and pose against pixels, the first steps with the view-switch loss; then weights, residual codes
and the rendering network. The geometry networks never change. Deterministic for a key.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxrecon.errors import InputError
from jaxrecon.fitting import cameras as fitted_cameras
from jaxrecon.fitting import latents, render
from jaxrecon.fitting import losses as default_losses
from jaxrecon.fitting.landmarks import POSE_WIDTH, apply_pose, fit_landmarks, landmark_trust
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.losses import Context, Loss
from jaxrecon.fitting.problem import FieldFunctions, FitConfig, Hyper, ViewData
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.types import Cameras, Similarity

CODES = ("w_id", "w_exp", "w_colour")
RESIDUALS = ("r_id", "r_exp", "r_colour")
WHERE = {
    "given": ("pose",),
    "refine": ("pose", "cameras"),
    "estimate": ("cameras",),
    "estimate_focal": ("cameras",),
}
"""Variables of pose and cameras that move, by what is known of the cameras."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitState:
    """What changes from step to step; save it to resume."""

    variables: Any
    """w_id, w_exp, w_colour, r_id, r_exp, r_colour, pose, cameras, params (the fine-tuned
    network)
    """
    opt_state: Any
    """state of the optimiser"""
    step: Any
    """() steps done on pixels"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitResult:
    """A fitted subject."""

    params: Any
    """network parameters with the fine-tuned part replaced"""
    z_id: Any
    """(i,)"""
    z_exp: Any
    """(n, e)"""
    z_colour: Any
    """(c,)"""
    S_canonical_world: Similarity
    """where the head is"""
    cameras: Cameras
    """the views' cameras, world; as given, refined or estimated (`FitConfig.cameras`)"""
    variables: Any
    """weights, residuals, pose, cameras (v, 7)"""
    history: Any
    """loss name -> (steps,) unweighted values, with `total` and `evaluations` a ray"""
    landmark_error: Any
    """() root mean square landmark error after the first stage, pixels"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Setting:
    """Constants of one subject's pixel stages."""

    views: ViewData
    """the subject's views"""
    initial: Similarity
    """S_canonical_world after the landmarks"""
    valid: Any
    """(v, h, w) 1 where pixels count: known, and above the neck plane"""
    cumulative: Any
    """((v, h), (v, h, w)) cumulative probability of rows, and of the columns of each row"""
    landmark_trust: Any
    """() weight of the landmarks by their noise, `landmarks.landmark_trust`"""
    key: Any
    """typed PRNG key; step keys are folded in"""
    hyper: Hyper
    """weights and rates"""


def fit(
    functions: FieldFunctions,
    params: dict,
    space: LatentSpace,
    views: ViewData,
    key: Array,
    config: FitConfig = FitConfig(),
    hyper: Hyper | None = None,
    losses: dict[str, Loss] | None = None,
    optimiser: optax.GradientTransformation | None = None,
) -> FitResult:
    """Fit one subject; jit and vmap freely.

    Args:
        functions: the conditional fields (static; keep one instance).
        params: their parameters; params[functions.fine_tuned] is fine-tuned in the last stage.
        space: latent space of the prior.
        views: images, masks, cameras (given), landmarks.
        key: typed PRNG key; draws the pixels.
        config: sizes and step counts (static).
        hyper: loss weights and learning rates (traced).
        losses: name -> loss, default `fitting.losses.DEFAULT`; weights come from hyper.weights by
            name.
        optimiser: any optax transformation of learning rate 1 (hyper.rates multiply its updates);
            default `optax.adam(1.0)`.

    Returns:
        FitResult, canonical space.
    """
    hyper = Hyper() if hyper is None else hyper
    setting, state, landmark_error = begin(
        functions, params, space, views, key, config, hyper, optimiser
    )
    history = []
    for stage in stages(config):
        state, values = run_steps(
            functions, params, space, setting, state, gates_of(stage), config,
            stage.steps, stage.switch, losses, optimiser,
        )  # fmt: skip
        history.append(values)
    return finish(functions, params, space, setting, state, history, landmark_error)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """One scanned stage (static)."""

    name: str
    """shown to users"""
    steps: int
    """scan length"""
    switch: bool
    """whether the view-switch loss is on"""
    free: tuple[str, ...]
    """variables that move"""


def stages(config: FitConfig) -> tuple[StagePlan, ...]:
    """The pixel stages of a configuration."""
    several = config.expressions > 1
    first = (*CODES, *WHERE[config.cameras])
    plans = (
        StagePlan("switch", config.switch_steps if several else 0, True, first),
        StagePlan("weights", config.weight_steps, False, first),
        StagePlan("residuals", config.residual_steps, False, (*first, *RESIDUALS, "params")),
    )
    return tuple(p for p in plans if p.steps > 0)


def _optimiser(optimiser):
    return optax.adam(1.0) if optimiser is None else optimiser


def begin(functions, params, space, views, key, config, hyper, optimiser=None):
    """Landmark stage: (setting, first state, landmark error in pixels). Arguments as of `fit`."""
    codes = latents.initial_codes(space, config.expressions)
    if config.cameras in ("estimate", "estimate_focal"):
        views = fitted_cameras.guess_cameras(views, space, config.cameras)
    initial, codes, landmark_error = fit_landmarks(views, space, config, hyper, codes)
    z_id, z_exp, _ = latents.compose_codes(space, codes)
    points = latents.landmarks(space, z_id, z_exp)
    cameras = fitted_cameras.canonical_cameras(
        views, initial, None if config.cameras == "given" else codes["cameras"]
    )
    height, width = views.images.shape[-3:-1]
    valid = views.valid * render.neck_mask(cameras, height, width, points[0, 8], config.neck)
    cumulative = render.pixel_density(views, valid, config.margin)
    variables = codes | {
        "pose": jnp.zeros(POSE_WIDTH),
        "params": params[functions.fine_tuned],
    }
    state = FitState(variables, _optimiser(optimiser).init(variables), jnp.zeros((), jnp.int32))
    trust = landmark_trust(views, cameras, points)
    setting = Setting(views, initial, valid, cumulative, trust, key, hyper)
    return setting, state, landmark_error


def _context(
    functions, params, space, setting, variables, config, switch, key, progress
) -> Context:
    views = setting.views
    params = {**params, functions.fine_tuned: variables["params"]}
    codes = latents.compose_codes(space, variables)
    pose = apply_pose(setting.initial, variables["pose"])
    cameras, off = camera_ops.transform_cameras(views.cameras, pose), None
    if config.cameras != "given":
        spread = fitted_cameras.camera_noise(config.cameras, setting.hyper)
        off = fitted_cameras.deviations(cameras, variables["cameras"], spread)
        cameras = fitted_cameras.move_cameras(cameras, variables["cameras"])
    k_pixels, k_other = jax.random.split(key)
    samples = render.draw_samples(views, setting.valid, setting.cumulative, k_pixels, config.rays)
    rendered = render.render_samples(
        functions, config, params, codes, views.expression, cameras, samples
    )
    switched = None
    if switch:
        shift = jax.random.randint(k_other, views.expression.shape, 1, config.expressions)
        other = (views.expression + shift) % config.expressions
        switched = render.render_samples(functions, config, params, codes, other, cameras, samples)
    points = latents.landmarks(space, codes[0], codes[1])
    pixels, depth = camera_ops.project(cameras, points[views.expression])
    focal = jnp.sqrt(jnp.abs(cameras.K[:, 0, 0] * cameras.K[:, 1, 1]))[:, None]
    # The depth only converts units: a fit must not shrink its error by approaching the cameras.
    scale = jax.lax.stop_gradient(jnp.abs(depth) / focal)
    errors = jnp.sum(jnp.abs(pixels - views.landmarks), axis=-1) * scale
    alpha = setting.hyper.alpha * 4.0**progress
    return Context(
        views, samples, rendered, switched, variables, codes, errors, alpha,
        setting.hyper.weights, cameras, off, setting.landmark_trust,
    )  # fmt: skip


def run_steps(
    functions: FieldFunctions,
    params: dict,
    space: LatentSpace,
    setting: Setting,
    state: FitState,
    gates: dict[str, Array],
    config: FitConfig,
    steps: int,
    switch: bool,
    losses: dict[str, Loss] | None = None,
    optimiser: optax.GradientTransformation | None = None,
) -> tuple[FitState, dict[str, Array]]:
    """`steps` optimisation steps as one scan: (state, history {name: (steps,)}).

    Args:
        functions, params, space, config, losses, optimiser: as of `fit`.
        setting, state: of `begin`, or of the steps before.
        gates: variable -> 1 where it moves, 0 where not (traced: stages share one compilation).
        steps: scan length (static).
        switch: whether the view-switch loss is on (static: it traces every pixel twice).
    """
    losses = default_losses.DEFAULT if losses is None else losses
    weights, rates = setting.hyper.weights, setting.hyper.rates
    unweighted = sorted(set(losses) - set(weights))
    if unweighted:
        raise InputError(
            f"losses {unweighted} have no weight",
            "a weight of that name in hyper.weights",
            "add one",
        )
    total_steps = max(sum(p.steps for p in stages(config)), 1)
    transform = _optimiser(optimiser)

    def objective(variables, key, progress):
        context = _context(
            functions, params, space, setting, variables, config, switch, key, progress
        )
        values = {name: loss(context) for name, loss in losses.items()}
        total = sum(weights[name] * value for name, value in values.items())
        return total, values | {"total": total, "evaluations": context.rendered.evaluations}

    def step(state: FitState, _):
        key = jax.random.fold_in(setting.key, state.step)
        progress = state.step / total_steps
        gradients, values = jax.grad(objective, has_aux=True)(state.variables, key, progress)
        updates, opt_state = transform.update(gradients, state.opt_state, state.variables)
        moves = cast(dict[str, Any], updates)
        # Cosine decay to a tenth over the whole fit.
        decay = 0.1 + 0.9 * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        variables = {
            name: jax.tree.map(
                lambda x, u, rate=gates[name] * rates[name] * decay: x + rate * u,
                value,
                moves[name],
            )
            for name, value in state.variables.items()
        }
        return FitState(variables, opt_state, state.step + 1), values

    return jax.lax.scan(step, state, None, length=steps)


def gates_of(stage: StagePlan) -> dict[str, Array]:
    """1 for the variables that a stage moves, 0 for the others."""
    names = (*CODES, *RESIDUALS, "pose", "cameras", "params")
    return {name: jnp.float32(name in stage.free) for name in names}


def finish(functions, params, space, setting, state, history, landmark_error) -> FitResult:
    """Collect the result of the stages."""
    variables = dict(state.variables)
    tuned = variables.pop("params")
    z_id, z_exp, z_colour = latents.compose_codes(space, variables)
    names = history[0].keys() if history else ()
    joined = {k: jnp.concatenate([h[k] for h in history]) for k in names}
    pose = apply_pose(setting.initial, variables["pose"])
    return FitResult(
        params={**params, functions.fine_tuned: tuned},
        z_id=z_id,
        z_exp=z_exp,
        z_colour=z_colour,
        S_canonical_world=pose,
        cameras=fitted_cameras.world_cameras(setting.views, pose, variables["cameras"]),
        variables=variables,
        history=joined,
        landmark_error=landmark_error,
    )
