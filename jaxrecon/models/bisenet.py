"""Face parsing by a bilateral segmentation network (BiSeNet, Yu et al. 2018).

The variant for faces, github.com/zllrunning/face-parsing.PyTorch d2e684c: the spatial path is the
trunk's own layer2, at an eighth of the picture. Images are NHWC, normalised by
`resnet.normalise_image`. Names of parameters are the authors', under `trunk` and `heads`.
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
from jaxrecon.models.resnet import Pyramid, ResNet, ResNetConfig

_HE = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
CLASSES = 19
"""Of the published weights, in the order `bisenet` of `detect.parsing_labels.ORDERS`."""


@dataclasses.dataclass(frozen=True)
class BiSeNetHeadsConfig:
    """Sizes of what follows the trunk."""

    classes: int = CLASSES
    """Labels."""
    context: int = 128
    """Channels of the context path."""
    fused: int = 256
    """Channels of the fusion and of the last hidden layer."""
    auxiliary: int = 64
    """Hidden channels of the two auxiliary outputs."""


@dataclasses.dataclass(frozen=True)
class BiSeNetConfig:
    """Trunk and heads."""

    trunk: ResNetConfig = ResNetConfig(18)
    heads: BiSeNetHeadsConfig = BiSeNetHeadsConfig()

    def __post_init__(self):
        if self.trunk.block != "basic":
            raise ValueError(f"a trunk of depth {self.trunk.depth}; expected 18 or 34")


class Logits(NamedTuple):
    """Unnormalised scores of the labels at every pixel, all at the size of the picture."""

    final: Any
    """(b, h, w, classes), the answer"""
    context8: Any
    """(b, h, w, classes) of the auxiliary output at 1/8; for training"""
    context16: Any
    """(b, h, w, classes) of the auxiliary output at 1/16; for training"""


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    features: int
    size: int = 3
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        """Same height and width."""
        x = _conv("conv", self.features, self.size, self.precision)(x)
        return nn.relu(BatchNorm(self.axis_name, name="bn")(x, train))


class Attention(nn.Module):
    """Attention refinement: a convolution whose channels are weighted by their own means."""

    features: int
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        """Same height and width."""
        x = ConvNorm(self.features, 3, self.axis_name, self.precision, name="conv")(x, train)
        weight = _conv("conv_atten", self.features, 1, self.precision)(_mean(x))
        return x * nn.sigmoid(BatchNorm(self.axis_name, name="bn_atten")(weight, train))


class Fusion(nn.Module):
    """Feature fusion: x + x times weights from the means of x, of two inputs side by side."""

    features: int
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(
        self, spatial: Float[Array, "b h w c"], context: Float[Array, "b h w d"], train: bool
    ) -> Float[Array, "b h w e"]:
        """Same height and width."""
        x = jnp.concatenate([spatial, context], axis=-1)
        x = ConvNorm(self.features, 1, self.axis_name, self.precision, name="convblk")(x, train)
        weight = nn.relu(_conv("conv1", self.features // 4, 1, self.precision)(_mean(x)))
        return x * nn.sigmoid(_conv("conv2", self.features, 1, self.precision)(weight)) + x


class Output(nn.Module):
    """Labels from features."""

    hidden: int
    classes: int
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
        """Logits at the size of the features."""
        x = ConvNorm(self.hidden, 3, self.axis_name, self.precision, name="conv")(x, train)
        return _conv("conv_out", self.classes, 1, self.precision)(x)


class BiSeNetHeads(nn.Module):
    """Features of the trunk to labels."""

    config: BiSeNetHeadsConfig = BiSeNetHeadsConfig()
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(self, features: Pyramid, size: tuple[int, int], train: bool = False) -> Logits:
        """Logits of a picture.

        Args:
            features: of the trunk.
            size: (height, width) of the picture.
            train: normalise by the batch, and update `batch_stats`.
        """
        c = self.config
        options = {"axis_name": self.axis_name, "precision": self.precision}
        at8, at16, at32 = features.layer2, features.layer3, features.layer4
        # The mean is spread over the coarsest map, which then goes up twice, by repetition.
        mean = ConvNorm(c.context, 1, **options, name="conv_avg")(_mean(at32), train)
        x = Attention(c.context, **options, name="arm32")(at32, train) + mean
        context16 = ConvNorm(c.context, 3, **options, name="conv_head32")(_nearest(x, at16), train)
        x = Attention(c.context, **options, name="arm16")(at16, train) + context16
        context8 = ConvNorm(c.context, 3, **options, name="conv_head16")(_nearest(x, at8), train)
        fused = Fusion(c.fused, **options, name="ffm")(at8, context8, train)
        outputs = (
            Output(c.fused, c.classes, **options, name="conv_out")(fused, train),
            Output(c.auxiliary, c.classes, **options, name="conv_out16")(context8, train),
            Output(c.auxiliary, c.classes, **options, name="conv_out32")(context16, train),
        )
        return Logits(*(resize_corners(x, size) for x in outputs))


class BiSeNet(nn.Module):
    """Pictures to labels; variables are {collection: {trunk, heads}}, as an import writes them."""

    config: BiSeNetConfig = BiSeNetConfig()
    axis_name: str | None = None
    """Mapped axis over which batch statistics are taken."""
    precision: Any = None
    """Of the convolutions (jax.lax.Precision); None is the backend's own."""

    @nn.compact
    def __call__(self, images: Float[Array | np.ndarray, "b h w 3"], train: bool = False) -> Logits:
        """Logits at every pixel.

        Args:
            images: of `resnet.normalise_image`; the published weights want 512 x 512.
            train: normalise by the batch, and update `batch_stats`.
        """
        trunk = ResNet(self.config.trunk, self.axis_name, self.precision, name="trunk")
        heads = BiSeNetHeads(self.config.heads, self.axis_name, self.precision, name="heads")
        return heads(trunk(images, train), (images.shape[1], images.shape[2]), train)


def resize_corners(x: Float[Array, "b i j c"], size: tuple[int, int]) -> Float[Array, "b h w c"]:
    """Bilinear, the centres of the corner pixels staying corners: torch's `align_corners=True`."""
    rows, columns = (
        jnp.asarray(_corner_weights(n, m)) for n, m in zip(x.shape[1:3], size, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST  # weights of interpolation, not of a network
    x = jnp.einsum("hi,bijc->bhjc", rows, x, precision=highest)
    return jnp.einsum("wj,bhjc->bhwc", columns, x, precision=highest)


def _corner_weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32 weights of linear interpolation with fixed ends."""
    place = np.arange(new) * ((old - 1) / max(new - 1, 1))
    low = np.minimum(place.astype(np.int64), old - 1)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (place - low))
    np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), place - low)
    return weights.astype(np.float32)


def _nearest(x: Array, like: Array) -> Array:
    """x (b, i, j, c) at the height and width of `like`, pixel k from floor(k i / h)."""
    for axis in (1, 2):
        old, new = x.shape[axis], like.shape[axis]
        x = jnp.take(x, np.arange(new) * old // new, axis=axis)
    return x


def _mean(x: Array) -> Array:
    """(b, 1, 1, c) mean over the pixels."""
    return jnp.mean(x, axis=(1, 2), keepdims=True)


def _conv(name: str, features: int, size: int, precision: Any) -> nn.Conv:
    pad = (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=_HE,
        precision=precision,
        name=name,
    )
