"""Bodies by linear blend skinning (SMPL: Loper et al. 2015), in immutable stages:

    shaped = model.with_shape(betas)          # rest shape and its joints
    posed = shaped.with_pose(pose)            # joints in space, transforms of bones
    mesh = posed.mesh()                       # vertices, normals, transforms of vertices

Each stage is a pytree and a pure function of the one before. All take one example or leading batch
axes *b, and may be mapped (`jax.vmap`); a mapped function should return arrays of a stage and not
the stage, which holds the model and would be copied for every example.

Frame and unit: the model's own; metres, y up, z to the front, for all files that we read. Pose: the
rotation of every joint against its parent, the root's about its own rest place.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.transforms import HIGHEST
from jaxrecon.models.parametric.body_file import body_arrays, read_body
from jaxrecon.models.parametric.skeleton import (
    affine_inverse,
    homogeneous,
    moved,
    pose_rotations,
    world_transforms,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hands:
    """Principal modes of hand poses, one row of numbers a mode: joints' rotation vectors."""

    left_components: Any
    """(h, 3 n) radians a unit coefficient, n joints of a hand"""
    left_mean: Any
    """(3 n,) radians"""
    right_components: Any
    """(h, 3 n)"""
    right_mean: Any
    """(3 n,)"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BodyModel:
    """An immutable body model: v vertices, j joints; arrays are leaves, names are static."""

    template: Any
    """(v, 3) rest shape of zero coefficients"""
    shape_basis: Any
    """(k, v, 3) a unit coefficient"""
    expression_basis: Any
    """(e, v, 3) at full activation, or a unit coefficient where it is a mode"""
    pose_basis: Any
    """(9 (j - 1), v, 3) a unit entry of R - I of the joints but the root; no row: no correctives"""
    joint_template: Any
    """(j, 3) rest joints: they are linear in the coefficients, as the vertices are"""
    joint_shape: Any
    """(k, j, 3)"""
    joint_expression: Any
    """(e, j, 3)"""
    weights: Any
    """(v, j) skinning, rows sum to one"""
    faces: Any
    """(f, 3) vertex ids, counter-clockwise from outside"""
    landmark_corners: Any
    """(l, 3) vertex ids"""
    landmark_weights: Any
    """(l, 3) barycentric"""
    contour_corners: Any
    """(r, c, 3) vertex ids of the face's outline, one row for each turn of the head"""
    contour_weights: Any
    """(r, c, 3)"""
    vertex_joints: Any
    """(n,) vertices that count as joints (nose, eyes, toes, finger tips)"""
    hands: Hands | None
    """Modes of hand poses, where the file has them"""
    parents: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """Of every joint; -1 for the root, which comes first; others come after their parents"""
    joint_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    expression_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    vertex_joint_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def with_shape(
        self,
        betas: Float[Array | np.ndarray, "*b k"],
        expression: Float[Array | np.ndarray, "*b e"] | None = None,
    ) -> ShapedBody:
        """The rest shape T + S betas + E expression, and its joints.

        Args:
            betas: the first coefficients of shape; those left out are zero.
            expression: the first coefficients of expression; None: neutral.
        """
        bases = [(betas, self.shape_basis, self.joint_shape)]
        if expression is not None:
            bases.append((expression, self.expression_basis, self.joint_expression))
        vertices, joints = jnp.asarray(self.template), jnp.asarray(self.joint_template)
        for coefficients, modes, joint_modes in bases:
            coefficients = jnp.asarray(coefficients)
            vertices = _plus(vertices, _blend(coefficients, modes))
            joints = _plus(joints, _blend(coefficients, joint_modes))
        return ShapedBody(model=self, vertices=vertices, joints=joints)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShapedBody:
    """A person at rest."""

    model: BodyModel
    vertices: Any
    """(*b, v, 3)"""
    joints: Any
    """(*b, j, 3)"""

    def with_pose(
        self,
        pose: Float[Array | np.ndarray, "*p"],
        translation: Float[Array | np.ndarray, "*b 3"] | None = None,
    ) -> PosedBody:
        """The skeleton in space, and the rest shape with the correctives of the pose.

        Args:
            pose: (*b, j, 3) rotation vectors (radians), (*b, j, 3, 3) rotation matrices, or
                (*b, j, 6) two columns interleaved as SPIN and ExPose write them (see
                `transforms.rotation_from_rot6d`); each joint against its parent.
            translation: added to everything last; None: none.

        Raises:
            ValueError: a pose of another shape.
        """
        model = self.model
        rotations = pose_rotations(pose, len(model.parents))
        batch = jnp.broadcast_shapes(rotations.shape[:-3], self.joints.shape[:-2])
        rotations = jnp.broadcast_to(rotations, batch + rotations.shape[-3:])
        rest = jnp.broadcast_to(self.vertices, batch + self.vertices.shape[-2:])
        joints = jnp.broadcast_to(self.joints, batch + self.joints.shape[-2:])
        if model.pose_basis.shape[0]:
            turned = rotations[..., 1:, :, :]
            bent = turned - jnp.broadcast_to(jnp.eye(3, dtype=turned.dtype), turned.shape)
            rest = rest + _blend(bent.reshape((*batch, -1)), model.pose_basis)
        world = world_transforms(rotations, joints, model.parents)
        if translation is not None:
            shift = jnp.broadcast_to(jnp.asarray(translation), (*batch, 3))
            world = world.at[..., :3, 3].add(shift[..., None, :])
        # less the rest pose: bones turn about their joint's rest place
        offset = jnp.sum(world[..., :3, :3] * joints[..., None, :], axis=-1)
        return PosedBody(
            model=model,
            rest=rest,
            rotations=rotations,
            joints=world[..., :3, 3],
            transforms=world.at[..., :3, 3].add(-offset),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PosedBody:
    """A person's skeleton in space."""

    model: BodyModel
    rest: Any
    """(*b, v, 3) rest shape with the correctives of the pose, still at rest"""
    rotations: Any
    """(*b, j, 3, 3) of each joint against its parent"""
    joints: Any
    """(*b, j, 3) in space"""
    transforms: Any
    """(*b, j, 4, 4) rest space to space, of each bone; [:3, :3] is its rotation in space"""

    def mesh(self) -> BodyMesh:
        """The skin: every vertex moved by its blend of the bones' transforms."""
        blend = self._blended()
        return BodyMesh(posed=self, vertices=moved(blend, self.rest))

    def vertex_transforms(self) -> Float[Array, "*b v 4 4"]:
        """M_v, the blended transform of every vertex from rest space to space (affine)."""
        return homogeneous(self._blended())

    def inverse_vertex_transforms(self) -> Float[Array, "*b v 4 4"]:
        """M_v^-1: from space to rest space.

        The motion of a vertex from a pose 0 to a pose t is M_v(t) M_v(0)^-1, the factors of PaMIR
        Eq. 15. Blends that are singular (equal weights of opposite turns) come back finite.
        """
        return homogeneous(affine_inverse(self._blended()))

    def _blended(self) -> Float[Array, "*b v 3 4"]:
        return jnp.einsum(
            "vj,...jab->...vab",
            self.model.weights,
            self.transforms[..., :3, :],
            precision=HIGHEST,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BodyMesh:
    """A posed person's skin; `model.faces` are its triangles."""

    posed: PosedBody
    vertices: Any
    """(*b, v, 3)"""

    @property
    def model(self) -> BodyModel:
        """The model that this is a body of."""
        return self.posed.model

    @property
    def joints(self) -> Any:
        """(*b, j, 3) in space."""
        return self.posed.joints

    def normals(self) -> Float[Array, "*b v 3"]:
        """Unit vertex normals, outward, area-weighted; 0 for vertices of no triangle."""
        return vertex_normals(self.vertices, self.model.faces)

    def vertex_joints(self) -> Float[Array, "*b n 3"]:
        """The vertices that count as joints, in the order of `model.vertex_joint_names`."""
        return self.vertices[..., jnp.asarray(self.model.vertex_joints), :]


def posed_vertices(
    model: BodyModel,
    betas: Float[Array | np.ndarray, "n k"],
    poses: Float[Array | np.ndarray, "n *p"],
    translations: Float[Array | np.ndarray, "n 3"] | None = None,
    expressions: Float[Array | np.ndarray, "n e"] | None = None,
    chunk: int = 8,
) -> Float[Array, "n v 3"]:
    """Vertices of many people, mapped in chunks, so that memory holds the blended transforms (48
    bytes a vertex, four times the result) of one chunk only.

    Args:
        model: of all.
        betas, translations, expressions: one row a person, see `BodyModel.with_shape`.
        poses: one a person, in any form of `ShapedBody.with_pose`.
        chunk: people at a time: a few on a CPU, whose caches hold little; hundreds on a GPU.
    """

    def one(inputs):
        betas, pose, translation, expression = inputs
        return model.with_shape(betas, expression).with_pose(pose, translation).mesh().vertices

    people = jax.tree.map(jnp.asarray, (betas, poses, translations, expressions))
    return jax.lax.map(one, people, batch_size=chunk)


def load_body(
    path: str | os.PathLike,
    shapes: int | None = None,
    expressions: int | None = None,
) -> BodyModel:
    """Read a body model: the free body, or SMPL, SMPL-H, SMPL-X or FLAME converted to our .npz.

    Args:
        path: see `body_file.read_body`.
        shapes: keep the first so many shape modes (memory); None: all.
        expressions: as `shapes`, of expressions.

    Raises:
        InputError: the file is missing, no such .npz, or inconsistent.
    """
    return _model(read_body(path), shapes, expressions, np.float32)


def body_model(raw: dict[str, np.ndarray], dtype: Any = np.float32) -> BodyModel:
    """A body model from arrays in the layout of our files.

    Args:
        raw: arrays, see docs/how-to/models.md.
        dtype: of the model (float64 needs jax_enable_x64; the arrays themselves are float32).

    Raises:
        InputError, ValueError: arrays that are absent or disagree.
    """
    return _model(body_arrays(raw), None, None, dtype)


def _model(arrays: dict[str, np.ndarray], shapes, expressions, dtype) -> BodyModel:
    def array(x):
        return jnp.asarray(np.asarray(x, dtype))

    def joints_of(x):
        return array(np.einsum("jv,...vc->...jc", regressor, x.astype(float), optimize=True))

    def ids(x):
        return jnp.asarray(x.astype(np.int32))

    regressor = arrays["joint_regressor"].astype(float)
    shape, expression = arrays["shapedirs"][:shapes], arrays["expression"][:expressions]
    hands = None
    if "hand_mean_left" in arrays:
        hands = Hands(
            left_components=array(arrays["hand_components_left"]),
            left_mean=array(arrays["hand_mean_left"]),
            right_components=array(arrays["hand_components_right"]),
            right_mean=array(arrays["hand_mean_right"]),
        )
    return BodyModel(
        template=array(arrays["v_template"]),
        shape_basis=array(shape),
        expression_basis=array(expression),
        pose_basis=array(arrays["posedirs"]),
        joint_template=joints_of(arrays["v_template"]),
        joint_shape=joints_of(shape),
        joint_expression=joints_of(expression),
        weights=array(arrays["weights"]),
        faces=ids(arrays["faces"]),
        landmark_corners=ids(arrays["landmark_corners"]),
        landmark_weights=array(arrays["landmark_weights"]),
        contour_corners=ids(arrays["contour_corners"]),
        contour_weights=array(arrays["contour_weights"]),
        vertex_joints=ids(arrays["vertex_joint_ids"]),
        hands=hands,
        parents=tuple(int(p) for p in arrays["parents"]),
        joint_names=tuple(str(n) for n in arrays["joint_names"]),
        expression_names=tuple(str(n) for n in arrays["expr_names"][:expressions]),
        vertex_joint_names=tuple(str(n) for n in arrays["vertex_joint_names"]),
    )


def _blend(coefficients: Array, modes: Array) -> Array:
    """(*b, k) coefficients of the first k modes (m, n, 3): (*b, n, 3)."""
    used = coefficients.shape[-1]
    if used > modes.shape[0]:
        raise ValueError(f"{used} coefficients of {modes.shape[0]} modes")
    return jnp.einsum("...k,knc->...nc", coefficients, modes[:used], precision=HIGHEST)


def _plus(a: Array, b: Array) -> Array:
    """Their sum, where one may lack the other's batch axes."""
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    return jnp.broadcast_to(a, shape) + jnp.broadcast_to(b, shape)
