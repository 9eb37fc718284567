"""The latent space at test time: principal components of learned codes, residuals, and landmarks
as a linear map.

    z = mean + w B + r          (Eq. 13 and 15 of Implicit Neural Deformation)

Rows of B are scaled by their standard deviations, so that w ~ N(0, I) over the training set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LatentSpace:
    """Statistics of the codes of a trained prior, released beside its weights."""

    id_mean: Any
    """(i,)"""
    id_basis: Any
    """(m_id, i)"""
    exp_mean: Any
    """(e,)"""
    exp_basis: Any
    """(m_exp, e)"""
    colour_mean: Any
    """(c,)"""
    colour_basis: Any
    """(m_c, c)"""
    landmarks_mean: Any
    """(68, 3) canonical landmarks at zero codes"""
    landmarks_id: Any
    """(i, 68, 3) change per unit of z_id"""
    landmarks_exp: Any
    """(e, 68, 3) change per unit of z_exp"""


def principal_components(
    codes: Float[np.ndarray, "n d"], components: int | None = None, variance: float = 0.96
) -> tuple[np.ndarray, np.ndarray]:
    """(mean (d,), basis (m, d) with rows scaled to one standard deviation) of sampled codes.

    Args:
        codes: n >= 2 samples.
        components: m, or None for the fewest that explain `variance` (paper: more than 96 %).
        variance: share of the variance to explain.
    """
    codes = np.asarray(codes, np.float64)
    mean = codes.mean(0)
    _, singular, rows = np.linalg.svd(codes - mean, full_matrices=False)
    explained = np.cumsum(singular**2) / max(np.sum(singular**2), 1e-30)
    if components is None:
        components = int(np.searchsorted(explained, variance) + 1)
    components = min(components, int((singular > 1e-8 * max(singular[0], 1e-30)).sum()))
    basis = rows[:components] * (singular[:components] / np.sqrt(max(len(codes) - 1, 1)))[:, None]
    return mean.astype(np.float32), basis.astype(np.float32)


def linear_landmarks(
    z_id: Float[np.ndarray, "n i"],
    z_exp: Float[np.ndarray, "n e"],
    landmarks: Float[np.ndarray, "n 68 3"],
    ridge: float = 1e-6,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge regression of landmarks on codes: (mean (68, 3), per z_id (i, 68, 3), per z_exp (e,
    68, 3)).

    Exact for codes that are coefficients of a linear model.
    """
    design = np.concatenate([np.ones((len(z_id), 1)), z_id, z_exp], axis=1).astype(np.float64)
    target = np.asarray(landmarks, np.float64).reshape(len(z_id), -1)
    penalty = ridge * len(z_id) * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    solution = np.linalg.solve(design.T @ design + penalty, design.T @ target)
    solution = solution.reshape(-1, *landmarks.shape[1:]).astype(np.float32)
    split = 1 + z_id.shape[1]
    return solution[0], solution[1:split], solution[split:]


def initial_codes(space: LatentSpace, expressions: int) -> dict[str, Array]:
    """Zero weights and residuals for one subject with `expressions` distinct expressions."""
    m_exp, e = space.exp_basis.shape
    return {
        "w_id": jnp.zeros(space.id_basis.shape[0]),
        "w_exp": jnp.zeros((expressions, m_exp)),
        "w_colour": jnp.zeros(space.colour_basis.shape[0]),
        "r_id": jnp.zeros(space.id_basis.shape[1]),
        "r_exp": jnp.zeros((expressions, e)),
        "r_colour": jnp.zeros(space.colour_basis.shape[1]),
    }


def compose_codes(
    space: LatentSpace, codes: dict[str, Any]
) -> tuple[Float[Array, "i"], Float[Array, "n e"], Float[Array, "c"]]:
    """(z_id (i,), z_exp (n, e), z_colour (c,)) of weights and residuals, Eq. 13 and 15."""

    def dot(weights, basis):
        return jnp.matmul(weights, basis, precision="highest")

    z_id = space.id_mean + dot(codes["w_id"], space.id_basis) + codes["r_id"]
    z_exp = space.exp_mean[None, :] + dot(codes["w_exp"], space.exp_basis) + codes["r_exp"]
    z_colour = space.colour_mean + dot(codes["w_colour"], space.colour_basis) + codes["r_colour"]
    return z_id, z_exp, z_colour


def landmarks(
    space: LatentSpace, z_id: Float[Array, "i"], z_exp: Float[Array, "n e"]
) -> Float[Array, "n 68 3"]:
    """Canonical landmarks of every expression."""
    of_id = jnp.tensordot(z_id, space.landmarks_id, axes=1, precision="highest")
    of_exp = jnp.tensordot(z_exp, space.landmarks_exp, axes=1, precision="highest")
    return (space.landmarks_mean + of_id)[None] + of_exp
