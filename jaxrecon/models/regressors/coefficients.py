"""The 257 coefficients of a face from one crop (Deep3DFaceRecon, Deng et al. 2019).

A residual network and seven linear heads that start at zero, in the order of the authors' vector.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.models.resnet import ResNet, ResNetConfig

IMAGE_SIZE = 224
"""Pixels of the square crop of `pipelines.face_crops`."""


@dataclasses.dataclass(frozen=True)
class CoefficientsConfig:
    """Names and widths of the heads, in the order of the output."""

    features: int = 2048
    """Channels of the image features."""
    names: tuple[str, ...] = ("id", "exp", "tex", "angle", "gamma", "translation_xy", "depth")
    """Of the heads."""
    widths: tuple[int, ...] = (80, 64, 80, 3, 27, 2, 1)
    """Outputs of each head."""


class Coefficients(nn.Module):
    """Linear heads on pooled features, zero at the start: the mean face at its usual distance."""

    config: CoefficientsConfig = CoefficientsConfig()
    precision: Any = None

    @nn.compact
    def __call__(self, features: Float[Array | np.ndarray, "b f"]) -> Float[Array, "b n"]:
        """The coefficients of all heads, one after another."""
        zeros = jax.nn.initializers.zeros
        outputs = [
            nn.Dense(width, kernel_init=zeros, precision=self.precision, name=name)(features)
            for name, width in zip(self.config.names, self.config.widths, strict=True)
        ]
        return jnp.concatenate(outputs, axis=-1)


@dataclasses.dataclass(frozen=True)
class Deep3DConfig:
    """Trunk and heads."""

    trunk: ResNetConfig = ResNetConfig()
    heads: CoefficientsConfig = CoefficientsConfig()


class Deep3DRegressor(nn.Module):
    """Crops to coefficients; variables are {collection: {trunk, heads}}, as an import writes
    them."""

    config: Deep3DConfig = Deep3DConfig()
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "b h w 3"], train: bool = False
    ) -> Float[Array, "b n"]:
        """Coefficients (257 of them by default) of the face in each crop.

        Args:
            images: aligned crops, RGB in [0, 1] as they are (no mean or deviation).
        """
        trunk = ResNet(self.config.trunk, self.axis_name, self.precision, name="trunk")
        heads = Coefficients(self.config.heads, self.precision, name="heads")
        return heads(trunk(images, train).pooled)
