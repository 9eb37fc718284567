"""Points that evaluations and fits read off a posed body: landmarks of the face, its outline, and
the 49 joints of SPIN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.geometry.transforms import HIGHEST
from jaxrecon.models.parametric.body import BodyMesh, PosedBody

VERTEX_JOINTS = (
    *("nose", "right_eye", "left_eye", "right_ear", "left_ear"),
    *("left_big_toe", "left_small_toe", "left_heel"),
    *("right_big_toe", "right_small_toe", "right_heel"),
    *(f"{s}_{f}" for s in ("left", "right") for f in ("thumb", "index", "middle", "ring", "pinky")),
)
"""Vertices that count as joints, in the order in which the SMPL family appends them to its own."""
SMPL_VERTEX_IDS = (332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787) + (
    *(2746, 2319, 2445, 2556, 2673),
    *(6191, 5782, 5905, 6016, 6133),
)
"""Of `VERTEX_JOINTS` on SMPL's and SMPL-H's 6,890 vertices (published with smplx)."""
SMPLX_VERTEX_IDS = (9120, 9929, 9448, 616, 6, 5770, 5780, 8846, 8463, 8474, 8635) + (
    *(5361, 4933, 5058, 5169, 5286),
    *(8079, 7669, 7794, 7905, 8022),
)
"""Of `VERTEX_JOINTS` on SMPL-X's 10,475 vertices."""

SPIN_EXTRA = 9
"""Rows of SPIN's additional regressor, J_regressor_extra.npy."""
SPIN_JOINTS = tuple(
    "OP Nose|OP Neck|OP RShoulder|OP RElbow|OP RWrist|OP LShoulder|OP LElbow|OP LWrist|OP MidHip|"
    "OP RHip|OP RKnee|OP RAnkle|OP LHip|OP LKnee|OP LAnkle|OP REye|OP LEye|OP REar|OP LEar|"
    "OP LBigToe|OP LSmallToe|OP LHeel|OP RBigToe|OP RSmallToe|OP RHeel|Right Ankle|Right Knee|"
    "Right Hip|Left Hip|Left Knee|Left Ankle|Right Wrist|Right Elbow|Right Shoulder|Left Shoulder|"
    "Left Elbow|Left Wrist|Neck (LSP)|Top of Head (LSP)|Pelvis (MPII)|Thorax (MPII)|Spine (H36M)|"
    "Jaw (H36M)|Head (H36M)|Nose|Left Eye|Right Eye|Left Ear|Right Ear".split("|")
)
"""25 of OpenPose's BODY_25, then 24 of data sets' ground truth."""
_SPIN_MAP = (
    *(24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34),
    *(8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, 47, 48, 49, 50, 51, 52, 53, 24, 26, 25, 28, 27),
)


def spin_joints(
    mesh: BodyMesh, extra_regressor: Float[Array | np.ndarray, "9 v"]
) -> Float[Array, "*b 49 3"]:
    """The 49 joints of SPIN (`SPIN_JOINTS`) of a posed SMPL body.

    Args:
        mesh: of a model with SMPL's 24 joints and 21 vertex joints.
        extra_regressor: the user's J_regressor_extra.npy, over the posed vertices.

    Raises:
        ValueError: a model of other joints.
    """
    extra = jnp.einsum(
        "jv,...vc->...jc", jnp.asarray(extra_regressor), mesh.vertices, precision=HIGHEST
    )
    joints = jnp.concatenate([mesh.joints, mesh.vertex_joints(), extra], axis=-2)
    if joints.shape[-2] != 24 + len(VERTEX_JOINTS) + SPIN_EXTRA:
        raise ValueError(
            f"{mesh.joints.shape[-2]} joints and {len(mesh.model.vertex_joint_names)} vertex "
            f"joints; expected SMPL's 24 and {len(VERTEX_JOINTS)}"
        )
    return joints[..., np.array(_SPIN_MAP), :]


def landmarks(mesh: BodyMesh) -> Float[Array, "*b l 3"]:
    """The model's landmarks on the posed skin (51 of SMPL-X and FLAME, 68 of the free body)."""
    model = mesh.model
    return _on_faces(mesh.vertices, model.landmark_corners, model.landmark_weights)


def contour(mesh: BodyMesh) -> Float[Array, "*b c 3"]:
    """The outline of the face (17 points of SMPL-X and FLAME) by the turn of the head: points of
    row `contour_row`, which moves along the cheeks. No gradient flows through the choice of row.
    """
    model, row = mesh.model, contour_row(mesh.posed)
    corners = jnp.asarray(model.contour_corners)[row]
    weights = jnp.asarray(model.contour_weights)[row]
    if not row.ndim:
        return _on_faces(mesh.vertices, corners, weights)
    flat = jax.vmap(_on_faces)(
        mesh.vertices.reshape((-1, *mesh.vertices.shape[-2:])),
        corners.reshape((-1, *corners.shape[-2:])),
        weights.reshape((-1, *weights.shape[-2:])),
    )
    return flat.reshape((*row.shape, *flat.shape[-2:]))


def contour_row(posed: PosedBody) -> Int[Array, "*b"]:
    """Row of the contour table: the head's turn about the vertical, in whole degrees.

    The product of the rotations from the root to the neck; turns of 0 to 39 degrees to the
    subject's right are rows 0 to 39, those to the left rows 40 to 78 (the table of FLAME, as in the
    authors' code).

    Raises:
        ValueError: no table of 79 rows, or no joint named neck.
    """
    model = posed.model
    if model.contour_corners.shape[0] != 79 or "neck" not in model.joint_names:
        raise ValueError("the model has no table of contours over the turn of its neck")
    turn = posed.transforms[..., model.joint_names.index("neck"), :3, :3]
    across = jnp.sqrt(turn[..., 0, 0] ** 2 + turn[..., 1, 0] ** 2)
    degrees = jnp.degrees(-jnp.arctan2(-turn[..., 2, 0], across))
    angle = jnp.round(jnp.minimum(degrees, 39.0)).astype(jnp.int32)
    return jnp.where(angle >= 0, angle, jnp.where(angle < -39, 78, 39 - angle))


def _on_faces(vertices: Array, corners: Array, weights: Array) -> Array:
    points = vertices[..., jnp.asarray(corners), :]
    factors = jnp.broadcast_to(jnp.asarray(weights)[..., None], points.shape)
    return jnp.sum(points * factors, axis=-2)
