"""Linear blend skinning: recorded results of smplx, closed forms, and derivatives everywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxrecon.geometry import transforms as tf
from jaxrecon.models.parametric.body import body_model, posed_vertices
from jaxrecon.models.parametric.skeleton import affine_inverse, world_transforms
from tests.models.bodies import layout, recorded, tiny_body

RECORD = recorded()


@pytest.fixture(scope="module")
def tiny():
    return body_model(tiny_body())


@functools.partial(jax.jit, static_argnums=4)
def stages(model, betas, pose, translation, deep=True):
    """Arrays of every stage."""
    shaped = model.with_shape(betas)
    posed = shaped.with_pose(pose, translation)
    mesh = posed.mesh()
    out = {
        "v_shaped": shaped.vertices,
        "rest_joints": shaped.joints,
        "joints": posed.joints,
        "rel_transforms": posed.transforms,
        "verts": mesh.vertices,
    }
    if deep:
        out["normals"] = mesh.normals()
        out["forward"] = posed.vertex_transforms()
        out["inverse"] = posed.inverse_vertex_transforms()
        out["rest"] = posed.rest
    return out


def recorded_rodrigues(pose):
    """The recorded code's rule, angle = |r + 1e-8|, which differs from ours by 3e-8."""
    angle = jnp.sqrt(jnp.sum((pose + 1e-8) ** 2, axis=-1))[..., None, None]
    k = tf.skew(pose / angle[..., 0])
    identity = jnp.broadcast_to(jnp.eye(3), k.shape)
    return identity + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * (k @ k)


@jax.jit
def slopes(model, betas, pose, cotangent):
    """Derivatives of sum(vertices cotangent) by betas and pose."""

    def total(betas, pose):
        posed = model.with_shape(betas).with_pose(recorded_rodrigues(pose))
        return jnp.sum(posed.mesh().vertices * cotangent)

    return jax.grad(total, argnums=(0, 1))(betas, pose)


@pytest.mark.parametrize("kind", ["smpl", "smplx", "flame"])
def test_recorded_stages_and_gradients(kind):
    with jax.enable_x64(True):
        model = body_model(layout(RECORD, kind), np.float64)
        record = {
            k.removeprefix(f"{kind}/").removesuffix("_f64"): v
            for k, v in RECORD.items()
            if k.startswith(f"{kind}/") and v.dtype == np.float64
        }
        betas = RECORD[f"{kind}/betas"].astype(float)
        pose = RECORD[f"{kind}/pose"].astype(float).reshape(4, -1, 3)
        found = stages(model, betas, record["rotmats"], np.zeros((4, 3)), False)
        for name, value in found.items():
            np.testing.assert_allclose(value, record[name], atol=1e-12, err_msg=name)
        dbetas, dpose = slopes(model, betas, pose, record["cotangent"])
        np.testing.assert_allclose(dbetas, record["dbetas"], atol=1e-10)
        np.testing.assert_allclose(dpose.reshape(4, -1), record["dpose"], atol=1e-10)
        ours = stages(model, betas, pose, np.zeros((4, 3)), False)
        np.testing.assert_allclose(ours["verts"], record["verts"], atol=3e-7)


@jax.jit
def probe(model, betas, pose, translation):
    """One number of everything."""
    mesh = model.with_shape(betas).with_pose(pose, translation).mesh()
    weights = jnp.cos(jnp.arange(mesh.vertices.shape[-2] * 3)).reshape(-1, 3)
    inverse = mesh.posed.inverse_vertex_transforms()[..., :3, 3]
    total = mesh.vertices + 0.1 * inverse
    return jnp.sum(total * jnp.broadcast_to(weights, total.shape), axis=(-2, -1)) + jnp.sum(
        mesh.joints, axis=(-2, -1)
    )


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.7, np.pi])
def test_gradients_agree_with_differences(angle, rng):
    with jax.enable_x64(True):
        model = body_model(layout(RECORD, "flame"), np.float64)
        axes = rng.standard_normal((5, 3))
        pose = angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)
        start = (rng.standard_normal(20), pose, rng.standard_normal(3))
        gradient = jax.jit(jax.grad(probe, argnums=(1, 2, 3)))(model, *start)
        flat, unravel = ravel_pytree(start)
        h = 1e-5
        steps = np.asarray(flat)[None] + h * np.concatenate([np.eye(38), -np.eye(38)])
        values = np.asarray(probe(model, *jax.vmap(unravel)(jnp.asarray(steps))))
        differences = (values[:38] - values[38:]) / (2 * h)
        found = ravel_pytree(gradient)[0]
        np.testing.assert_allclose(found, differences, rtol=1e-6, atol=1e-6)


def test_gradients_in_single_precision_are_finite_at_rest_and_half_turns(tiny):
    @jax.jit
    def gradient(pose):
        return jax.grad(lambda p: tiny.with_shape(np.zeros(6)).with_pose(p).mesh().vertices[0, 0])(
            pose
        )

    for pose in (np.zeros((55, 3)), np.full((55, 3), np.pi / np.sqrt(3))):
        found = gradient(pose.astype(np.float32))
        assert np.isfinite(found).all() and np.abs(found).max() > 0


def test_rest_pose_is_the_rest_shape(tiny, rng):
    betas = rng.standard_normal(6).astype(np.float32)
    found = stages(tiny, betas, np.zeros((55, 3), np.float32), np.zeros(3, np.float32))
    raw = tiny_body()
    shape = raw["v_template"] + np.tensordot(betas, raw["shapedirs"].astype(np.float32), 1)
    np.testing.assert_allclose(found["verts"], shape, atol=1e-5)
    np.testing.assert_allclose(found["joints"], found["rest_joints"], atol=1e-5)
    ids = raw["joint_vertex_ids"]
    means = [shape[row[row >= 0]].mean(0) for row in ids]
    np.testing.assert_allclose(found["rest_joints"], means, atol=1e-5)


def test_the_root_turns_and_moves_the_whole(tiny, rng):
    betas = rng.standard_normal(6).astype(np.float32)
    pose = rng.standard_normal((55, 3)).astype(np.float32)
    R = np.asarray(tf.rotation_from_axis_angle(jnp.asarray([0.3, -1.2, 0.5])))
    still = pose.copy()
    still[0] = 0
    turned = pose.copy()
    turned[0] = [0.3, -1.2, 0.5]
    t = np.array([1.0, 2.0, -3.0], np.float32)
    a = stages(tiny, betas, still, np.zeros(3, np.float32))
    b = stages(tiny, betas, turned, t)
    root = np.asarray(a["rest_joints"])[0]
    for name in ("verts", "joints"):
        expected = (np.asarray(a[name]) - root) @ R.T + root + t
        np.testing.assert_allclose(b[name], expected, atol=2e-5)
    np.testing.assert_allclose(b["normals"], np.asarray(a["normals"]) @ R.T, atol=1e-4)
    used = np.unique(tiny.faces)
    np.testing.assert_allclose(np.linalg.norm(b["normals"][used], axis=-1), 1.0, atol=1e-5)


def test_poses_in_three_forms_are_one(tiny, rng):
    betas, t = np.zeros(6, np.float32), np.zeros(3, np.float32)
    pose = rng.standard_normal((55, 3)).astype(np.float32)
    R = tf.rotation_from_axis_angle(jnp.asarray(pose))
    expected = stages(tiny, betas, pose, t)["verts"]
    for form in (R, 3.0 * tf.rot6d_from_rotation(R)):
        np.testing.assert_allclose(stages(tiny, betas, form, t)["verts"], expected, atol=1e-5)
    for wrong in (pose.ravel(), pose[:-1], np.zeros((55, 4), np.float32)):
        with pytest.raises(ValueError, match="pose of shape"):
            tiny.with_shape(betas).with_pose(wrong)


def test_motion_between_poses_follows_pamir_equation_15():
    with jax.enable_x64(True):
        model = body_model(layout(RECORD, "flame"), np.float64)
        rng = np.random.default_rng(1)
        poses = 0.8 * rng.standard_normal((2, 5, 3))
        found = stages(model, np.zeros(20), poses, rng.standard_normal((2, 3)))
        M, inverse = np.asarray(found["forward"]), np.asarray(found["inverse"])
        identity = np.broadcast_to(np.eye(4), M.shape)
        np.testing.assert_allclose(M @ inverse, identity, atol=1e-10)
        # Correctives differ between poses: compare the points that both carry from rest.
        rest = np.concatenate([found["rest"][0], np.ones((30, 1))], axis=1)[..., None]
        moved = M[1] @ inverse[0] @ (M[0] @ rest)
        np.testing.assert_allclose(moved, M[1] @ rest, atol=1e-10)
        np.testing.assert_allclose((M[0] @ rest)[:, :3, 0], found["verts"][0], atol=1e-12)


def test_singular_blends_stay_finite():
    flat = jnp.diag(jnp.array([1.0, -1.0, 0.0]))
    affine = jnp.concatenate([flat, jnp.ones((3, 1))], axis=1)
    assert np.isfinite(affine_inverse(affine)).all()
    assert np.isfinite(jax.jit(jax.jacobian(affine_inverse))(affine)).all()


walk = jax.jit(world_transforms, static_argnums=2)


@pytest.mark.parametrize(
    "parents", [(-1,), (-1, 0, 0, 0), tuple(range(-1, 16)), (-1, 0, 1, 0, 3, 2)]
)
def test_the_tree_agrees_with_a_walk_down(parents, rng):
    with jax.enable_x64(True):
        count = len(parents)
        R = np.asarray(tf.rotation_from_axis_angle(jnp.asarray(rng.standard_normal((2, count, 3)))))
        joints = rng.standard_normal((2, count, 3))
        found = np.asarray(walk(jnp.asarray(R), jnp.asarray(joints), parents))
        for b in range(2):
            frames = []
            for j, parent in enumerate(parents):
                local = np.eye(4)
                local[:3, :3], local[:3, 3] = R[b, j], joints[b, j]
                if parent >= 0:
                    local[:3, 3] -= joints[b, parent]
                    local = frames[parent] @ local
                frames.append(local)
            np.testing.assert_allclose(found[b], frames, atol=1e-12)


def test_batches_maps_and_chunks_agree(tiny, rng):
    betas = rng.standard_normal((5, 6)).astype(np.float32)
    poses = rng.standard_normal((5, 55, 3)).astype(np.float32)
    t = rng.standard_normal((5, 3)).astype(np.float32)
    one_by_one = [stages(tiny, *row, False)["verts"] for row in zip(betas, poses, t, strict=True)]
    batched = stages(tiny, betas, poses, t, False)["verts"]
    mapped = jax.vmap(stages, (None, 0, 0, 0, None))(tiny, betas, poses, t, False)["verts"]
    chunked = jax.jit(functools.partial(posed_vertices, chunk=2))(tiny, betas, poses, t)
    for found in (batched, mapped, chunked):
        np.testing.assert_allclose(found, np.stack(one_by_one), atol=1e-5)
    # one person in several poses, several people in one pose
    for many in ((betas[0], poses), (betas, poses[0])):
        own = [m[2] if m.ndim == n else m for m, n in zip(many, (2, 3), strict=True)]
        found = stages(tiny, *many, t[0], False)["verts"]
        expected = stages(tiny, *own, t[0], False)["verts"]
        np.testing.assert_allclose(found[2], expected, atol=1e-5)


def test_one_compilation_serves_all_models_of_a_size(tiny):
    counted = jax.jit(lambda m, b, p: m.with_shape(b).with_pose(p).joints)
    other = body_model(tiny_body() | {"v_template": np.ones((40, 3), np.float32)})
    zeros = (np.zeros(6, np.float32), np.zeros((55, 3), np.float32))
    assert not np.array_equal(counted(tiny, *zeros), counted(other, *zeros))
    assert counted._cache_size() == 1


def test_coefficients(tiny, rng):
    betas = np.array([0.5, -1.0], np.float32)
    padded = np.array([0.5, -1.0, 0, 0, 0, 0], np.float32)
    np.testing.assert_array_equal(tiny.with_shape(betas).vertices, tiny.with_shape(padded).vertices)
    opened = tiny.with_shape(betas, np.array([1.0], np.float32))
    moved = np.flatnonzero(np.abs(opened.vertices - tiny.with_shape(betas).vertices).max(1))
    assert set(moved) == set(tiny_body()["expr_idx"][:5]) and tiny.expression_names[0] == "jawOpen"
    with pytest.raises(ValueError, match="7 coefficients of 6"):
        tiny.with_shape(np.zeros(7, np.float32))
