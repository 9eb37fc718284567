"""One network for faces and for people: points, labels of pixels, and where the subject is.

A fully convolutional pyramid (features at strides 2 to 32, added again on the way up) with three
heads. Points are expectations over softmax maps (integral regression: Sun et al., "Integral Human
Pose Regression", ECCV 2018); the same weights read off each point's visibility and spread. Labels
leave stride 2 by sub-pixel convolution (Shi et al., CVPR 2016). Whether a subject of the reference
size is centred at a place is told on a grid of stride 16, so that the same network, run on the
levels of an image pyramid, also finds what it then looks at.
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

POINT_STRIDE = 4
"""Pixels a cell of the points' maps."""
FIND_STRIDE = 16
"""Pixels a cell of the grid that finds subjects."""
MULTIPLE = 32
"""Pictures are a multiple of this many pixels high and wide."""
OFFSET = 32.0
"""Pixels of one unit of the regressed offset of a subject's centre."""
SPREAD = (0.05, 100.0)
"""Bounds of predicted standard deviations, pixels of the crop."""

FIRST_LOG_SPREAD = 2.0
"""Logarithm of the standard deviation that an untrained network predicts."""
FIRST_SCORE = -4.0
"""Logit that an untrained network gives a subject."""


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Which network."""

    points: int = 68
    """landmarks or keypoints"""
    labels: int = 10
    """classes of pixels; 0 is the background"""
    size: int = 160
    """of the square crops it was trained on, pixels"""
    reference: float = 45.0
    """size of a subject that counts as in scale, pixels: for faces the distance between the outer
    corners of the eyes of a frontal view, for people the longer side of their bounds
    """
    widths: tuple[int, ...] = (16, 32, 64, 128, 160)
    """channels at strides 2, 4, 8, 16, 32"""
    up_widths: tuple[int, ...] = (24, 48, 64, 96)
    """channels at strides 2, 4, 8, 16 on the way up"""
    blocks: tuple[int, ...] = (0, 1, 2, 2, 2)
    """residual convolutions at strides 2, 4, 8, 16, 32"""
    up_blocks: tuple[int, ...] = (0, 0, 0, 0)
    """the same at strides 2, 4, 8, 16 on the way up"""

    def __post_init__(self):
        if self.size % MULTIPLE or self.size < 2 * MULTIPLE:
            raise ValueError(f"size is {self.size}; expected a multiple of {MULTIPLE}, at least 64")
        if len(self.widths) != 5 or len(self.up_widths) != 4:
            raise ValueError("widths of five levels down and four up")
        lengths = len(self.blocks), len(self.up_blocks)
        if lengths != (5, 4) or min(*self.blocks, *self.up_blocks) < 0:
            raise ValueError("numbers of blocks of five levels down and four up")
        if min(self.points, self.labels - 1, *self.widths, *self.up_widths) < 1:
            raise ValueError("numbers of points, labels and channels are positive")


class Output(NamedTuple):
    """What the network says of pictures (b, h, w, 3); pixels are those of the picture."""

    maps: Any
    """(b, h / 4, w / 4, n) logits of where each point is"""
    points: Any
    """(b, n, 2) their expectations, (x, y) pixels"""
    log_spread: Any
    """(b, n) logarithm of the standard deviation of a coordinate, pixels"""
    visible: Any
    """(b, n) logits that the point is in the picture and nothing hides it"""
    labels: Any
    """(b, h, w, c) logits of the classes"""
    found: Any
    """(b, h / 16, w / 16, 4): logit that a subject is centred in the cell, offset (x, y) of its
    centre from the cell's in units of `OFFSET`, logarithm of its size over the reference
    """


class _Conv(nn.Module):
    """3x3 convolution, batch normalisation, ReLU."""

    width: int
    stride: int = 1
    kernel: int = 3
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        pad = self.kernel // 2
        x = nn.Conv(
            self.width,
            (self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
        )(x)
        return nn.relu(BatchNorm(self.axis_name, name="norm")(x, train))


class _Pointwise(nn.Module):
    """1x1 convolution with bias, as one product of matrices: on a CPU the gradient of XLA's
    convolution takes several times as long.
    """

    width: int

    @nn.compact
    def __call__(self, x):
        shape = (1, 1, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        rows = x.reshape(-1, x.shape[-1]) @ kernel[0, 0] + bias[None]
        return rows.reshape(*x.shape[:-1], self.width)


def double(x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Twice as many pixels along each side, each repeated."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def depth_to_space(x: Float[Array, "b h w k"]) -> Float[Array, "b H W c"]:
    """(b, h, w, 4 c) as (b, 2 h, 2 w, c): the channels of a pixel become its four quarters."""
    b, h, w, k = x.shape
    x = x.reshape(b, h, w, 2, 2, k // 4)
    return jnp.moveaxis(x, 3, 2).reshape(b, 2 * h, 2 * w, k // 4)


def softmax_maps(maps: Float[Array, "b h w n"]) -> Float[Array, "b h w n"]:
    """Each map as probabilities of its cells."""
    b, h, w, n = maps.shape
    return jax.nn.softmax(maps.reshape(b, h * w, n), axis=1).reshape(b, h, w, n)


def mean_places(probabilities: Float[Array, "b h w n"]) -> Float[Array, "b n 2"]:
    """Mean place (x, y) under each map, in cells with centres at + 0.5."""
    h, w = probabilities.shape[1:3]
    x = jnp.sum(probabilities.sum(1) * (jnp.arange(w) + 0.5)[None, :, None], axis=1)
    y = jnp.sum(probabilities.sum(2) * (jnp.arange(h) + 0.5)[None, :, None], axis=1)
    return jnp.stack([x, y], axis=-1)


class DetectorNetwork(nn.Module):
    """Points, labels and whereabouts."""

    config: DetectorConfig = DetectorConfig()
    axis_name: str | None = None
    """Mapped axis over which batch statistics are taken."""

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w 3"], train: bool = False) -> Output:
        """See `Output`.

        Args:
            images: RGB in [0, 1]; h and w multiples of 32.
            train: normalise by the batch, and update `batch_stats`.
        """
        config = self.config

        def conv(name, width, x, stride=1, kernel=3):
            return _Conv(width, stride, kernel, self.axis_name, name=name)(x, train)

        def dense(name, width, x):
            return _Pointwise(width, name=name)(x)

        x = (jnp.asarray(images) - 0.5) * 4.0
        x = conv("stem", config.widths[0], x, 2, 5)
        down = []
        for i, width in enumerate(config.widths):
            x = conv("level0", width, x) if i == 0 else conv(f"level{i}_down", width, x, 2)
            for j in range(config.blocks[i]):
                x = x + conv(f"level{i}_{j}", width, x)
            down.append(x)
        ups = []
        for i in (3, 2, 1, 0):
            width = config.up_widths[i]
            x = double(dense(f"up{i}_in", width, x)) + dense(f"up{i}_skip", width, down[i])
            x = conv(f"up{i}", width, nn.relu(x))
            for j in range(config.up_blocks[i]):
                x = x + conv(f"up{i}_{j}", width, x)
            ups.append(x)
        at16, _, at4, at2 = ups

        found = dense("found", 4, conv("found_conv", 64, at16))
        features = conv("points_conv", config.up_widths[1] + 16, at4)
        maps = dense("maps", config.points, features)
        readings = dense("readings", 2 * config.points, features)
        where = softmax_maps(maps)
        cells = mean_places(where)
        log_spread = jnp.sum(where * readings[..., : config.points], axis=(1, 2))
        visible = jnp.sum(where * readings[..., config.points :], axis=(1, 2))
        labels = depth_to_space(dense("labels", 4 * config.labels, at2))
        # At the start points are far off, and subjects rare.
        log_spread = log_spread + FIRST_LOG_SPREAD
        found = found + jnp.asarray([FIRST_SCORE, 0.0, 0.0, 0.0])[None, None, None]
        low, high = np.log(SPREAD)
        return Output(
            maps=maps,
            points=POINT_STRIDE * cells,
            log_spread=jnp.clip(log_spread, low, high),
            visible=visible,
            labels=labels,
            found=found,
        )
