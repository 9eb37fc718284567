"""Hidden surface is found: what is inside, behind, or seen from its inner side only."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import head_exposure

trimesh = pytest.importorskip("trimesh")


def nested():
    """A sphere with a smaller one inside it, and how many faces the outer has."""
    outer = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    inner = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    both = trimesh.util.concatenate([outer, inner])
    return np.asarray(both.vertices, np.float32), np.asarray(both.faces), len(outer.faces)


def test_what_lies_inside_is_hidden_and_the_outside_is_not():
    vertices, faces, outer = nested()
    shown = np.asarray(
        head_exposure.exposed_faces(
            jnp.asarray(vertices)[None], jnp.asarray(faces), head_exposure.AROUND, 256
        )
    )
    assert not shown[outer:].any()
    # Nobody looks from below: only the bottom of the outer sphere may be missing.
    centres = vertices[faces[:outer]].mean(1)
    assert shown[:outer][centres[:, 1] > -0.4].all()


def test_the_front_shows_the_front_and_a_second_head_adds_what_it_shows():
    vertices, faces, outer = nested()
    front = head_exposure.exposed_faces(jnp.asarray(vertices)[None], jnp.asarray(faces), size=256)
    front = np.asarray(front)
    centres = vertices[faces].mean(1)
    assert front[:outer][centres[:outer, 2] > 0.3].all()
    assert not front[centres[:, 2] < -0.57].any()
    # The inner sphere pushed out of the outer one, to the front, in another "expression".
    moved = vertices.copy()
    moved[faces[outer:].min() :] += np.float32([0.0, 0.0, 0.6])
    heads = jnp.stack([jnp.asarray(vertices), jnp.asarray(moved)])
    both = np.asarray(head_exposure.exposed_faces(heads, jnp.asarray(faces), size=256))
    assert both[front].all()
    assert both[outer:][centres[outer:, 2] > 0.1].all()


def test_faces_seen_from_behind_do_not_count():
    vertices, faces, outer = nested()
    flipped = jnp.asarray(np.ascontiguousarray(faces[:, ::-1]))
    shown = head_exposure.exposed_faces(jnp.asarray(vertices)[None], flipped, size=256)
    assert not np.asarray(shown).any()
