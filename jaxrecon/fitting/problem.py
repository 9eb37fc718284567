"""What a test-time fit is given: field functions, views, sizes and hyper-parameters.

`FieldFunctions` is all that fitting knows of a network; `ViewData`, `Hyper` and the variables are
pytrees, so that fits are vmapped over subjects, seeds and hyper-parameters. `FitConfig` is static.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax

from jaxrecon.geometry.sphere_tracing import TraceConfig
from jaxrecon.types import Cameras


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FieldFunctions:
    """A conditional signed distance and colour field as pure functions. Keep one instance: it is a
    static argument.
    """

    condition: Callable
    """(params, z_id (i,), z_exp (e,)) -> conditioning, a pytree"""
    level_set: Callable
    """(conditioning, points (n, 3)) -> signed distances (n,)"""
    geometry: Callable
    """(conditioning, points (n, 3)) -> (signed distances (n,), (features (n, f), offsets (n,
    3)))
    """
    condition_colour: Callable
    """(params, z_colour (c,)) -> conditioning of the colour field"""
    colour: Callable
    """(conditioning, points, unit normals, unit view directions, features) -> RGB (n, 3)"""
    fine_tuned: str = "rendering"
    """Key of params that the last stage of a fit may change (the geometry stays fixed)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ViewData:
    """Views of one subject (v views of one size); leading axes may batch subjects."""

    images: Any
    """(v, h, w, 3) RGB in [0, 1]"""
    subject: Any
    """(v, h, w) 1 subject, 0 background"""
    valid: Any
    """(v, h, w) 1 where the mask is known, 0 ignored"""
    still: Any
    """(v, h, w) 1 away from the mouth: pixels the view-switch loss may use"""
    cameras: Cameras
    """v cameras, world units"""
    landmarks: Any
    """(v, 68, 2) pixels"""
    landmark_weights: Any
    """(v, 68) 0 where not seen; else 1, or less where a detector is unsure"""
    expression: Any
    """(v,) int32, which expression a view shows"""
    unit: Any
    """() world units per canonical unit (150 for millimetres and heads), or 0 where the unit is
    unknown
    """


CameraMode = Literal["given", "refine", "estimate", "estimate_focal"]
"""given: exact. refine: K exact, R and t approximate. estimate: K exact, R and t unknown.
estimate_focal: the focal length unknown too, K holds a guess.
"""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Sizes of a fit; iteration counts are fixed."""

    expressions: int = 1
    """Distinct expressions among the views."""
    cameras: CameraMode = "given"
    """What is known of the cameras; all but `given` move them with the codes."""
    rays: int = 384
    """Pixels of each view a step."""
    landmark_steps: int = 12
    """Gauss-Newton steps on the landmarks alone."""
    switch_steps: int = 10
    """First steps that carry the view-switch loss, Eq. 17 (mu is zero afterwards)."""
    weight_steps: int = 110
    """Further steps on PCA weights and pose, Eq. 14."""
    residual_steps: int = 110
    """Last steps on weights, residual codes and the rendering network, Eq. 16."""
    trace: TraceConfig = TraceConfig(
        tolerance=2e-4, steps=40, samples=48, sampled_fraction=1 / 16, stages=4
    )
    """Cost and tolerance of tracing."""
    lipschitz: float = 1.25
    """Bound of |gradient| that tracing assumes; learned fields pass 1 (the largest are met away
    from the surface).
    """
    neck: float = 0.10
    """Rays that pass the head's axis further than this below the chin are ignored (canonical
    units).
    """
    margin: int = 12
    """Background pixels are drawn within about this many pixels of the subject."""


def default_weights() -> dict[str, float]:
    """Eq. 9 and 17, and terms of ours: landmarks, priors on weights and residuals, pose."""
    return {
        "rgb": 1.0,
        "mask": 100.0,
        "deformation": 1e-4,
        "eikonal": 0.01,
        "code": 1e-4,
        "landmarks": 10.0,
        "prior": 2e-4,
        "residual": 1e-2,
        "pose": 1.0,
        "switch": 0.1,
        "consistency": 20.0,
        "cameras": 2e-4,
    }


def default_rates() -> dict[str, float]:
    """Adam's learning rate of every variable."""
    return {
        "w_id": 0.02,
        "w_exp": 0.02,
        "w_colour": 0.05,
        "r_id": 0.005,
        "r_exp": 0.005,
        "r_colour": 0.01,
        "pose": 5e-4,
        "cameras": 1e-3,
        "params": 1e-3,
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """Hyper-parameters, all traced: vmap over them."""

    weights: Any = dataclasses.field(default_factory=default_weights)
    """loss name -> weight"""
    rates: Any = dataclasses.field(default_factory=default_rates)
    """variable -> learning rate"""
    alpha: Any = 100.0
    """sharpness of the soft mask at the start, per canonical unit; grows fourfold over the fit"""
    landmark_noise: Any = 1.0
    """standard deviation of landmarks, 1/138 canonical units: a pixel where a head fills 256"""
    camera_noise: Any = None
    """(7,) standard deviations of a camera, `cameras.NOISE` of the mode if None"""
