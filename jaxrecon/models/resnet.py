"""Residual networks for images (He et al. 2016, "Deep residual learning for image recognition").

The variant of torchvision, v1.5: bottlenecks stride in their 3x3 convolution. Names of parameters
are torchvision's (layer1.0.conv1 is layer1_0/conv1), and so are padding and pooling: a stride-2
convolution pads both sides, where "SAME" would pad one. Images are NHWC.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.models.batch_norm import BatchNorm

DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}
"""{depth: (kind of block, blocks in each layer)}."""
IMAGE_MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet, RGB in [0, 1]."""
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of ImageNet."""
WIDTHS = (64, 128, 256, 512)
"""Of the 3x3 convolutions of the four layers."""
_HE = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Which residual network."""

    depth: int = 50
    """18, 34 (basic blocks), 50 or 101 (bottlenecks)."""

    def __post_init__(self):
        if self.depth not in DEPTHS:
            raise ValueError(f"depth is {self.depth}; expected one of {sorted(DEPTHS)}")

    @property
    def block(self) -> str:
        """`basic` (two 3x3 convolutions) or `bottleneck` (1x1, 3x3, 1x1)."""
        return DEPTHS[self.depth][0]

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks in each of the four layers."""
        return DEPTHS[self.depth][1]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four layers; the pooled vector has the last."""
        return tuple(w * (4 if self.block == "bottleneck" else 1) for w in WIDTHS)


class Pyramid(NamedTuple):
    """Features of an image of (h, w) pixels; sizes are rounded up."""

    stem: Any
    """(b, h / 2, w / 2, 64), after the first ReLU, before the maximum"""
    layer1: Any
    """(b, h / 4, w / 4, c)"""
    layer2: Any
    """(b, h / 8, w / 8, 2 c)"""
    layer3: Any
    """(b, h / 16, w / 16, 4 c)"""
    layer4: Any
    """(b, h / 32, w / 32, 8 c)"""
    pooled: Any
    """(b, 8 c), the mean of layer4 over its pixels"""


class Block(nn.Module):
    """A basic block or a bottleneck."""

    kind: str
    """`basic` or `bottleneck`."""
    width: int
    """Channels of its 3x3 convolutions; a bottleneck has four times as many outputs."""
    stride: int = 1
    project: bool = False
    """Whether the shortcut is a 1x1 convolution, as where shapes change."""
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        """ReLU of the shortcut plus the convolutions."""

        def conv(name, features, size, stride, x):
            return _conv(name, features, size, stride, self.precision)(x)

        def norm(name, x):
            return BatchNorm(self.axis_name, name=name)(x, train)

        out = self.width * (4 if self.kind == "bottleneck" else 1)
        if self.kind == "bottleneck":
            y = nn.relu(norm("bn1", conv("conv1", self.width, 1, 1, x)))
            y = nn.relu(norm("bn2", conv("conv2", self.width, 3, self.stride, y)))
            y = norm("bn3", conv("conv3", out, 1, 1, y))
        else:
            y = nn.relu(norm("bn1", conv("conv1", self.width, 3, self.stride, x)))
            y = norm("bn2", conv("conv2", out, 3, 1, y))
        if self.project:
            x = norm("downsample_bn", conv("downsample_conv", out, 1, self.stride, x))
        return nn.relu(x + y)


def _conv(name: str, features: int, size: int, stride: int, precision: Any) -> nn.Conv:
    pad = (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=_HE,
        precision=precision,
        name=name,
    )


class ResNet(nn.Module):
    """A residual network without its classifier."""

    config: ResNetConfig = ResNetConfig()
    axis_name: str | None = None
    """Mapped axis over which batch statistics are taken."""
    precision: Any = None
    """Of the convolutions (jax.lax.Precision); None is the backend's own."""

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "b h w 3"], train: bool = False
    ) -> Pyramid:
        """Features at five scales, and pooled.

        Args:
            images: in the range and normalisation that the weights were trained with.
            train: normalise by the batch, and update `batch_stats`.
        """
        x = _conv("conv1", 64, 7, 2, self.precision)(images)
        features = [nn.relu(BatchNorm(self.axis_name, name="bn1")(x, train))]
        pad = ((0, 0), (1, 1), (1, 1), (0, 0))
        x = jax.lax.reduce_window(
            features[0], -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pad
        )
        for layer, project, stride in layers(self.config):
            for i in range(self.config.blocks[layer]):
                x = Block(
                    self.config.block,
                    WIDTHS[layer],
                    stride if i == 0 else 1,
                    project and i == 0,
                    self.axis_name,
                    self.precision,
                    name=f"layer{layer + 1}_{i}",
                )(x, train)
            features.append(x)
        return Pyramid(*features, pooled=jnp.mean(x, axis=(1, 2)))


def layers(config: ResNetConfig) -> list[tuple[int, bool, int]]:
    """(index, whether its first block projects the shortcut, stride) of the four layers."""
    return [(i, i > 0 or config.block == "bottleneck", 1 if i == 0 else 2) for i in range(4)]


def normalise_image(rgb: Float[Array | np.ndarray, "*n 3"]) -> Float[Array, "*n 3"]:
    """RGB in [0, 1] to what trunks trained on ImageNet expect: (rgb - mean) / std."""
    lead = (None,) * (rgb.ndim - 1)
    return (jnp.asarray(rgb) - jnp.asarray(IMAGE_MEAN)[lead]) / jnp.asarray(IMAGE_STD)[lead]
