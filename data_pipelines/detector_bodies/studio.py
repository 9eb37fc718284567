"""One person in one picture, with 25 keypoints.

`Studio.example` is a function of the configuration and of the seed alone, so any process may render
any part of a data set.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from data_pipelines.detector_bodies.framing import lamp_turn, sample_camera
from data_pipelines.detector_bodies.looks import Looks, sample_looks
from data_pipelines.detector_bodies.outfits import sample_outfit
from data_pipelines.detector_bodies.poses import Build, sample_pose
from data_pipelines.detector_bodies.render import picture, pose_person
from data_pipelines.detector_bodies.surface import ARM_WEIGHT, HEIGHT, Person, load_person
from data_pipelines.detector_bodies.wardrobe import Garment, load_clothes, packed, room_for
from data_pipelines.lighting import sample_lighting
from data_pipelines.morphable_heads import hair
from jaxrecon.errors import InputError
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.types import BODY_25, Cameras

BALD_LESS = 0.6
"""Share of the bald that get hair after all: the albedo's own rate is that of face pictures."""
TOLERANCE = {
    **dict.fromkeys(BODY_25, 0.12),
    **dict.fromkeys(("right_ankle", "left_ankle", "right_shoulder", "left_shoulder"), 0.15),
    **dict.fromkeys(("neck", "right_hip", "left_hip"), 0.2),
    "mid_hip": 0.25,
    **dict.fromkeys(("nose", "right_eye", "left_eye", "right_ear", "left_ear"), 0.015),
    **{n: 0.03 for n in BODY_25 if n.endswith(("toe", "heel"))},
}
"""Metres by which something may lie in front of a keypoint that counts as visible: joints lie
inside their own limb, other points on the skin."""


@dataclasses.dataclass(frozen=True)
class BodiesConfig:
    """What is rendered."""

    model: str
    """body model .npz, the free body's layout"""
    clothes: str = ""
    """clothes that bind to it; none: all clothes are painted"""
    size: int = 256
    """height and width, pixels"""
    supersampling: int = 2
    """samples along each side of a pixel"""
    seed: int = 0
    """everything random follows from it and from an example's own seed"""

    def check(self) -> None:
        """Raise `InputError` if the configuration is not sound."""
        if not (16 <= self.size <= 4096 and 1 <= self.supersampling <= 8 and self.seed >= 0):
            raise InputError(
                f"{self}", "size 16 to 4096, supersampling 1 to 8, seed not negative", "change it"
            )


@dataclasses.dataclass(frozen=True)
class Scene:
    """What `render.picture` draws: a person of v + m vertices before a camera."""

    vertices: Any
    """(n, 3) metres; the first v are the body's"""
    normals: Any
    """(n, 3)"""
    faces: np.ndarray
    """(f, 3); (0, 0, 0) where nothing is drawn"""
    material: np.ndarray
    """(f,) places in `looks.MATERIALS`"""
    extra_fields: np.ndarray
    """(m, 8), see `surface.FIELDS`"""
    regions: np.ndarray
    """painted garments, see `looks.rows`"""
    albedo: np.ndarray
    """of skin and hair"""
    style: np.ndarray
    """of the hair"""
    looks: Looks
    lighting: Any
    """(9, 3) spherical harmonics"""
    light: np.ndarray
    """(3, 3) from the world to the lighting's frame"""
    camera: Cameras
    keypoints: np.ndarray
    """(25, 3) BODY_25 in the world"""


class Studio:
    """A body model with its wardrobe; made once a process."""

    def __init__(self, config: BodiesConfig, person: Person, garments: list[Garment]):
        self.config, self.person, self.garments = config, person, garments
        self.room = room_for(garments)
        self._albedo = jax.jit(procedural_albedo.sample_parameters)
        self._hair = jax.jit(hair.sample_hair)
        self._lighting = jax.jit(sample_lighting)

    def scene(self, seed: int) -> Scene:
        """Somebody somehow dressed, posed, lit and photographed, by a seed."""
        config, person = self.config, self.person
        rng = np.random.default_rng([config.seed, seed])
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        k_albedo, k_hair, k_light = jax.random.split(key, 3)
        albedo, style = np.array(self._albedo(k_albedo)), np.array(self._hair(k_hair))
        lighting = self._lighting(k_light)
        if rng.uniform() < BALD_LESS:
            parts = procedural_albedo.unflatten(albedo)
            albedo = np.array(
                procedural_albedo.flatten(
                    dataclasses.replace(parts, scalp=jnp.maximum(parts.scalp, 0.9))
                )
            )

        betas = np.clip(rng.normal(size=len(person.shapes)), -2.5, 2.5).astype(np.float32)
        body = person.template + np.tensordot(betas, person.shapes, 1)
        joints = person.regressor @ body
        opacity = procedural_albedo.unflatten(albedo).scalp[0]
        outfit = sample_outfit(rng, person, self.garments, body, bool(opacity < hair.BALD))
        extra = packed(outfit.extras, person, self.room)
        gone = np.zeros(len(body), bool)
        gone[outfit.hidden] = True
        covered = np.any(gone[person.used][person.faces], axis=1, keepdims=True)
        faces = np.where(covered, 0, person.faces)
        faces = np.concatenate([faces, extra.faces + len(person.used)]).astype(np.int32)
        faces[np.ptp(faces, axis=1) == 0] = 0
        material = np.concatenate([np.zeros(len(person.faces), np.int64), extra.material])

        turns = sample_pose(rng, build_of(person, body, joints), person.names)
        vertices, normals, posed = pose_person(
            person.surface,
            body[person.used],
            joints.astype(np.float32),
            turns.astype(np.float32),
            outfit.regions,
            style,
            np.float32(opacity),
            np.float32(outfit.shod),
            extra.vertices,
            extra.weights,
            faces,
            person.parents,
        )
        points = np.asarray(vertices, np.float64)
        by_joint, by_vertex = person.keypoints
        keypoints = by_joint @ np.asarray(posed) + by_vertex @ points[: len(person.used)]

        seen = np.zeros(len(points), bool)
        seen[faces[faces.any(1)]] = True
        fields = np.concatenate([person.fields[person.used], extra.fields])
        camera = sample_camera(rng, points, seen, fields, config.size)
        # the lamps stand about the camera, mostly in front of the person as it sees them
        turn = lamp_turn(rng) @ np.diag([1.0, -1.0, -1.0]) @ np.asarray(camera.R, float)
        looks = sample_looks(rng, np.asarray(procedural_albedo.unflatten(albedo).hair))
        return Scene(
            vertices=vertices,
            normals=normals,
            faces=faces,
            material=material.astype(np.int32),
            extra_fields=extra.fields,
            regions=outfit.regions,
            albedo=albedo,
            style=style,
            looks=looks,
            lighting=lighting,
            light=turn.astype(np.float32),
            camera=camera,
            keypoints=keypoints.astype(np.float32),
        )

    def example(self, seed: int) -> dict[str, np.ndarray]:
        """The picture of `scene` and what a detector should find in it.

        Returns:
            image (S, S, 4) uint8 straight RGBA; keypoints (25, 2) float32 pixels, also where
            outside the picture; visible (25,) bool; seed int64.
        """
        scene, size = self.scene(seed), self.config.size
        parts = {f.name: getattr(scene, f.name) for f in dataclasses.fields(scene)}
        image, place, depth, front = picture(
            self.person.surface, **parts, size=size, supersampling=self.config.supersampling
        )
        place, depth, front = np.asarray(place), np.asarray(depth), np.asarray(front)
        inside = ((place >= 0) & (place < size)).all(1)
        tolerance = np.array([TOLERANCE[n] for n in BODY_25], np.float32)
        return {
            "image": np.asarray(image),
            "keypoints": place,
            # Where nothing is drawn, `front` is infinite.
            "visible": inside & np.isfinite(front) & (depth - front < tolerance),
            "seed": np.array(seed, np.int64),
        }


def make_studio(config: BodiesConfig) -> Studio:
    """Read the files of a configuration; raises `InputError` where they are of no use."""
    config.check()
    person = load_person(config.model)
    return Studio(config, person, load_clothes(config.clothes, person) if config.clothes else [])


def build_of(person: Person, body: Float[np.ndarray, "n 3"], joints: np.ndarray) -> Build:
    """Measures of a person at rest (vertices, joints)."""
    trunk = person.used[person.fields[person.used, ARM_WEIGHT] < 0.3]
    height, points = person.fields[trunk, HEIGHT], body[trunk]
    hips = points[(height > -0.1) & (height < 0.25)]
    belly = points[(height > 0.1) & (height < 0.9)]
    hips, belly = (p if len(p) else points for p in (hips, belly))
    return Build(
        joints=joints.astype(float),
        half_width=float(np.abs(hips[:, 0]).max()),
        front=float(belly[:, 2].max()),
        back=float(belly[:, 2].min()),
    )
