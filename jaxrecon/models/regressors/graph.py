"""Bodies from one photo by graph convolutions (GraphCMR, Kolotouros et al. 2019).

Image features are attached to every vertex of a template; graph convolutions move the vertices,
and a second network reads SMPL's parameters off them. PaMIR takes its first body from here.
Vertices are (b, n, c), channels last.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.geometry.registration import nearest_rotation
from jaxrecon.models.batch_norm import BatchNorm
from jaxrecon.models.regressors.sparse_rows import SparseRows, multiply
from jaxrecon.models.resnet import ResNet, ResNetConfig

_GROUP = 8  # channels of each normalised group
SHAPE_HEAD = (64, 32)
"""Channels of the blocks of the shape head."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GraphMesh:
    """The graph that a network convolves over; built by `graph_mesh`."""

    adjacency: SparseRows
    """(n, n) row-normalised, with loops"""
    template: Any
    """(n, 3) vertices in [-1, 1]"""
    up: SparseRows
    """(m, n) to the full resolution"""


def graph_mesh(
    template: Float[np.ndarray, "m 3"],
    adjacency: SparseRows,
    down: SparseRows,
    up: SparseRows,
) -> GraphMesh:
    """The graph of one resolution below the template's.

    Args:
        template: vertices of the body model at rest, full resolution, any unit.
        adjacency: of the coarse mesh, row-normalised.
        down: (n, m) from full to coarse vertices.
        up: (m, n) back.

    Raises:
        ValueError: sizes that do not fit together.
    """
    full, coarse = len(template), len(adjacency.columns)
    if len(down.columns) != coarse or len(up.columns) != full or _reach(down) >= full:
        raise ValueError(f"matrices that do not lead from {full} to {coarse} vertices and back")
    if max(_reach(up), _reach(adjacency)) >= coarse:
        raise ValueError(f"columns beyond {coarse} vertices")
    low, high = template.min(axis=0), template.max(axis=0)
    centred = template - 0.5 * (low + high)[None, :]
    scaled = (centred / np.abs(centred).max()).astype(np.float32)
    return GraphMesh(adjacency, np.asarray(multiply(down, scaled)), up)


def _reach(matrix: SparseRows) -> int:
    """The largest column in use."""
    return int(np.asarray(matrix.columns).max(initial=0))


@dataclasses.dataclass(frozen=True)
class GraphConfig:
    """Sizes of the graph network."""

    features: int = 2048
    """Channels of the image features."""
    channels: int = 256
    """Of the blocks; a multiple of 16."""
    blocks: int = 5
    """Blocks at that width, after the one that halves the input's."""
    vertices: int = 1723
    """Of the graph."""

    def __post_init__(self):
        if self.channels < 16 or self.channels % 16:
            raise ValueError(f"channels is {self.channels}; expected a multiple of 16")


@dataclasses.dataclass(frozen=True)
class ParamConfig:
    """Sizes of the network from vertices to parameters."""

    vertices: int = 1723
    """Of the graph."""
    hidden: int = 1024
    """Width."""
    joints: int = 24
    """Rotations."""
    betas: int = 10
    """Shape coefficients."""


class GraphConv(nn.Module):
    """Mean over neighbours of a linear map: A x W + b (Kipf & Welling 2017)."""

    channels: int
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], adjacency: SparseRows) -> Float[Array, "b n d"]:
        """Convolve over the graph."""
        linear = nn.Dense(self.channels, use_bias=False, precision=self.precision, name="linear")
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        return multiply(adjacency, linear(x)) + bias[None, None, :]


class GraphBlock(nn.Module):
    """A bottleneck on a graph; the shortcut is projected where channels change."""

    channels: int
    precision: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], adjacency: SparseRows) -> Float[Array, "b n d"]:
        """x plus norm, ReLU, linear; norm, ReLU, graph convolution; norm, ReLU, linear."""

        def dense(name, channels):
            return nn.Dense(channels, precision=self.precision, name=name)

        half = self.channels // 2
        y = dense("lin1", half)(_norm_relu("pre_norm", x))
        y = GraphConv(half, self.precision, name="conv")(_norm_relu("norm1", y), adjacency)
        y = dense("lin2", self.channels)(_norm_relu("norm2", y))
        if x.shape[-1] != self.channels:
            x = dense("skip_conv", self.channels)(x)
        return x + y


def _norm_relu(name: str, x: Array) -> Array:
    norm = nn.GroupNorm(x.shape[-1] // _GROUP, epsilon=1e-5, use_fast_variance=False, name=name)
    return nn.relu(norm(x))


class GraphCNN(nn.Module):
    """Image features to vertices and a camera."""

    config: GraphConfig = GraphConfig()
    precision: Any = None

    @nn.compact
    def __call__(
        self, features: Float[Array | np.ndarray, "b f"], mesh: GraphMesh
    ) -> tuple[Float[Array, "b n 3"], Float[Array, "b 3"]]:
        """(vertices, weak camera (s, tx, ty) on the crop, which spans [-1, 1])."""
        c, A = self.config, mesh.adjacency

        def dense(name, channels):
            return nn.Dense(channels, precision=self.precision, name=name)

        # One linear layer on [template, features]: the features are the same at every vertex,
        # so their part is computed once for each image, not for each vertex.
        template = jnp.asarray(mesh.template)[None]
        kernel = self.param(
            "input_kernel", nn.initializers.lecun_normal(), (3 + c.features, 2 * c.channels)
        )
        bias = self.param("input_bias", nn.initializers.zeros, (2 * c.channels,))
        per_image = jnp.matmul(features, kernel[3:], precision=self.precision) + bias[None, :]
        x = jnp.matmul(template, kernel[:3], precision=self.precision) + per_image[:, None, :]
        for i in range(1 + c.blocks):
            x = GraphBlock(c.channels, self.precision, name=f"block_{i}")(x, A)
        y = x
        for i, channels in enumerate(SHAPE_HEAD):
            y = GraphBlock(channels, self.precision, name=f"shape_{i}")(y, A)
        vertices = dense("shape_out", 3)(_norm_relu("shape_norm", y))
        z = nn.relu(dense("camera_mix", 1)(_norm_relu("camera_norm", x)))[..., 0]
        return vertices, dense("camera_out", 3)(z)


class ParamRegressor(nn.Module):
    """Vertices, beside those of the template, to rotations and shape coefficients of SMPL."""

    config: ParamConfig = ParamConfig()
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(
        self,
        vertices: Float[Array | np.ndarray, "b n 3"],
        template: Float[Array | np.ndarray, "n 3"],
        train: bool = False,
    ) -> tuple[Float[Array, "b j 3 3"], Float[Array, "b s"]]:
        """(rotations relative to the parent, betas)."""
        c, batch = self.config, len(vertices)

        def dense_norm(name, x):
            x = nn.Dense(c.hidden, precision=self.precision, name=name)(x)
            return BatchNorm(self.axis_name, name=f"{name}_bn")(x, train)

        beside = jnp.broadcast_to(template[None], vertices.shape)
        x = jnp.concatenate([vertices, beside], axis=-1).reshape(batch, -1)
        x = nn.relu(dense_norm("fc", x))
        for i in range(2):
            y = nn.relu(dense_norm(f"res{i}_fc1", x))
            x = nn.relu(x + dense_norm(f"res{i}_fc2", y))
        x = nn.Dense(9 * c.joints + c.betas, precision=self.precision, name="out")(x)
        matrices = x[:, : 9 * c.joints].reshape(batch, c.joints, 3, 3)
        return rotations_of(matrices), x[:, 9 * c.joints :]


def rotations_of(matrices: Float[Array, "b j 3 3"]) -> Float[Array, "b j 3 3"]:
    """U V^T of the singular value decomposition, all of it negated where that is a reflection.

    The nearest rotation would negate one axis only; the weights were trained with this. The
    derivative is that of the polar decomposition, finite also at equal singular values.
    """
    a, b, c = (matrices[..., i, :] for i in range(3))
    reflected = jnp.sum(a * jnp.cross(b, c), axis=-1) < 0  # the sign of the determinant
    sign = jnp.where(reflected, -1.0, 1.0).astype(matrices.dtype)
    return jax.vmap(jax.vmap(nearest_rotation))(sign[..., None, None] * matrices)


@dataclasses.dataclass(frozen=True)
class GraphCMRConfig:
    """Trunk, graph network and regressor."""

    trunk: ResNetConfig = ResNetConfig()
    graph: GraphConfig = GraphConfig()
    regressor: ParamConfig = ParamConfig()


class GraphEstimate(NamedTuple):
    """A regressed body; leading axes are the batch."""

    vertices: Any
    """(b, n, 3) of the coarse mesh"""
    full_vertices: Any
    """(b, m, 3) of the body model's mesh, by `GraphMesh.up`"""
    camera: Any
    """(b, 3) weak perspective (s, tx, ty): pixel = s (xy + t)"""
    rotations: Any
    """(b, j, 3, 3)"""
    betas: Any
    """(b, s)"""


class GraphCMR(nn.Module):
    """Crops to bodies; variables are {collection: {trunk, graph, regressor}}, as an import writes
    them."""

    config: GraphCMRConfig = GraphCMRConfig()
    axis_name: str | None = None
    precision: Any = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array | np.ndarray, "b h w 3"],
        mesh: GraphMesh,
        train: bool = False,
        detach: bool = True,
    ) -> GraphEstimate:
        """Estimate of the body in each crop.

        Args:
            images: crops of 224 pixels around the body, through `resnet.normalise_image`.
            mesh: of `graph_mesh`.
            train: normalise by the batch.
            detach: whether losses of rotations and betas stop at the vertices, as in the authors'
                training.
        """
        trunk = ResNet(self.config.trunk, self.axis_name, self.precision, name="trunk")
        graph = GraphCNN(self.config.graph, self.precision, name="graph")
        regressor = ParamRegressor(
            self.config.regressor, self.axis_name, self.precision, name="regressor"
        )
        vertices, camera = graph(trunk(images, train).pooled, mesh)
        seen = jax.lax.stop_gradient(vertices) if detach else vertices
        rotations, betas = regressor(seen, jnp.asarray(mesh.template), train)
        return GraphEstimate(vertices, multiply(mesh.up, vertices), camera, rotations, betas)
