"""Bodies from one photo by iterative regression (SPIN, Kolotouros et al. 2019; the network is that
of HMR, Kanazawa et al. 2018).

The head sees image features and its own last guess, and adds a correction to the guess; three
times. It is linear: the authors' code has no activation between its layers, only dropout.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.geometry.transforms import rotation_from_rot6d
from jaxrecon.models.resnet import ResNet, ResNetConfig

IMAGE_SIZE = 224
"""Pixels of the square crop."""
_SMALL = jax.nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")  # Xavier, gain 0.01


@dataclasses.dataclass(frozen=True)
class HMRHeadConfig:
    """Sizes of the iterative regressor."""

    features: int = 2048
    """Channels of the image features."""
    hidden: int = 1024
    """Width of the two hidden layers."""
    joints: int = 24
    """Rotations, the root's included."""
    betas: int = 10
    """Shape coefficients."""
    iterations: int = 3
    """Corrections."""
    dropout: float = 0.5
    """Rate while training."""


class Guess(NamedTuple):
    """What the head corrects; every field (b, n) or (n,) for all examples alike."""

    pose: Any
    """(b, 6 j) two columns for each joint, interleaved: x of both, y of both, z of both"""
    betas: Any
    """(b, s) shape coefficients"""
    camera: Any
    """(b, 3) weak perspective (s, tx, ty) on the crop, which spans [-1, 1]"""


class BodyEstimate(NamedTuple):
    """A regressed body; leading axes are the batch."""

    rotations: Any
    """(b, j, 3, 3) relative to the parent joint"""
    betas: Any
    """(b, s)"""
    camera: Any
    """(b, 3) weak perspective (s, tx, ty)"""
    pose: Any
    """(b, 6 j) as in `Guess`: another call may start from here"""


class HMRHead(nn.Module):
    """Image features to a body; the mean body is in the collection `constants`."""

    config: HMRHeadConfig = HMRHeadConfig()
    precision: Any = None

    @nn.compact
    def __call__(
        self,
        features: Float[Array | np.ndarray, "b f"],
        initial: Guess | None = None,
        train: bool = False,
        iterations: int | None = None,
    ) -> BodyEstimate:
        """Estimate after `iterations` corrections of `initial`.

        Args:
            features: pooled features of the trunk.
            initial: where to start; the mean body when None.
            train: whether dropout is active (rng `dropout`).
            iterations: other than the configuration's.
        """
        c, batch = self.config, features.shape[0]

        def dense(name, width, initializer):
            return nn.Dense(width, kernel_init=initializer, precision=self.precision, name=name)

        lecun = jax.nn.initializers.lecun_normal()
        hidden = [dense(f"fc{i + 1}", c.hidden, lecun) for i in range(2)]
        corrections = [
            dense(name, width, _SMALL)
            for name, width in (("decpose", 6 * c.joints), ("decshape", c.betas), ("deccam", 3))
        ]
        drop = nn.Dropout(c.dropout, deterministic=not train)
        # At start the mean body stands upright in its rest pose and fills nine tenths of the crop.
        means = [
            self.variable("constants", "init_pose", _rest_pose, c.joints).value,
            self.variable("constants", "init_shape", jnp.zeros, (c.betas,)).value,
            self.variable("constants", "init_cam", jnp.asarray, (0.9, 0.0, 0.0)).value,
        ]
        guess = [
            jnp.broadcast_to(x if x.ndim == 2 else x[None, :], (batch, x.shape[-1]))
            for x in (means if initial is None else map(jnp.asarray, initial))
        ]
        for _ in range(c.iterations if iterations is None else iterations):
            x = jnp.concatenate([features, *guess], axis=-1)
            for layer in hidden:
                x = drop(layer(x))
            guess = [g + layer(x) for g, layer in zip(guess, corrections, strict=True)]
        pose, betas, camera = guess
        rotations = rotation_from_rot6d(pose.reshape(batch, c.joints, 6))
        return BodyEstimate(rotations, betas, camera, pose)


def _rest_pose(joints: int) -> Array:
    return jnp.tile(jnp.eye(3)[:, :2].reshape(-1), joints)


@dataclasses.dataclass(frozen=True)
class HMRConfig:
    """Trunk and head."""

    trunk: ResNetConfig = ResNetConfig()
    head: HMRHeadConfig = HMRHeadConfig()


class HMR(nn.Module):
    """Crops to bodies; variables are {collection: {trunk, head}}, as an import writes them."""

    config: HMRConfig = HMRConfig()
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w 3"],
        initial: Guess | None = None,
        train: bool = False,
        iterations: int | None = None,
    ) -> BodyEstimate:
        """Estimate of the body in each crop; arguments as of `HMRHead`.

        Args:
            images: crops around the body, RGB through `resnet.normalise_image`.
        """
        trunk = ResNet(self.config.trunk, self.axis_name, self.precision, name="trunk")
        head = HMRHead(self.config.head, self.precision, name="head")
        return head(trunk(images, train).pooled, initial, train, iterations)
