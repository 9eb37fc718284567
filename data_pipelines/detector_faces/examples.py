"""Random people, one picture each, in shards.

`FaceStudio.example` is a function of the configuration and of (split, index), and of nothing else:
an interrupted run goes on with the shards that are missing.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from data_pipelines.detector_faces import pose
from data_pipelines.detector_faces.figure import prepare_figure
from data_pipelines.detector_faces.look import sample_look
from data_pipelines.detector_faces.render import render_figure
from data_pipelines.detector_faces.scene import Dresser
from data_pipelines.detector_shards import (
    check_span,
    has_shard,
    save_shard,
    seeds_of,
    settle_recipe,
    sha256,
    shard_paths,
)
from data_pipelines.head_points import HeadSampler
from data_pipelines.morphable_heads import hair
from data_pipelines.morphable_heads.examples import Progress, project_points
from data_pipelines.morphable_heads.head import person
from jaxrecon.errors import InputError
from jaxrecon.geometry.shading import shading
from jaxrecon.models.parametric import procedural_albedo

RECIPE = 1
"""Raised with every change of what an example contains, so that old shards are not mixed in."""
CODES = head_points.SampleConfig(hidden=True)
"""Of identities and expressions; points are not drawn, so which of them show is not asked."""


@dataclasses.dataclass(frozen=True)
class FacesConfig:
    """What to render."""

    model: str
    """head model .npz with semantic masks"""
    split: str = "train"
    """train, validation or test: their people differ"""
    count: int = 8000
    """examples; each is another person"""
    size: int = 224
    """height and width, pixels"""
    first: int = 0
    """number of the first example, a multiple of 64"""
    seed: int = 0
    """everything random follows from it"""
    supersampling: int = 2
    """samples along each side of a pixel"""
    modes: int = 100
    """identity modes of the model that vary"""

    def check(self) -> None:
        """Raise `InputError` if the configuration is not sound."""
        check_span(self.split, self.first, self.count)
        if self.size < 16 or not 1 <= self.supersampling <= 5 or self.modes < 1:
            raise InputError(
                f"{self}", "size >= 16, supersampling 1 to 5, modes >= 1", "change them"
            )
        if not pathlib.Path(self.model).is_file():
            raise InputError(
                f"{self.model}: no such file",
                "a head model (.npz)",
                "see data_pipelines/README.md",
            )

    def seeds(self, span: range) -> np.ndarray:
        """(n,) int64 seeds of the people of a span of examples: other splits have others."""
        return seeds_of(self.split, span)

    def recipe(self) -> dict[str, Any]:
        """What an example looks like, whatever the number of examples."""
        kept = {k: getattr(self, k) for k in ("size", "seed", "supersampling", "modes")}
        return {"recipe": RECIPE, "model_sha256": sha256(self.model), **kept}


class FaceStudio:
    """A head model with all that its pictures need; made once a process."""

    def __init__(self, config: FacesConfig):
        config.check()
        self.config = config
        self.figure = prepare_figure(config.model, config.modes)
        model = self.figure.head.model
        self.sampler = head_points.make_sampler(model, CODES, config.modes)
        self.dresser = Dresser(self.figure)
        self.names = model.expression_names

    def example(self, index: int) -> dict[str, Any]:
        """Example `index` of the split: image (S, S, 4) uint8, labels (S, S) uint8, landmarks
        (68, 2) float32 px, visible (68,) bool, seed.
        """
        config, figure = self.config, self.figure
        seed = int(config.seeds(range(index, index + 1))[0])
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        drawn = _drawn(self.sampler, key)
        identity, expression, albedo, style, (lighting, shine) = drawn
        rng = np.random.default_rng([config.seed, seed, 6])
        gaze = np.clip(rng.normal(0, [0.22, 0.12]), [-0.5, -0.3], [0.5, 0.3])
        expression = pose.vary_expression(rng, np.asarray(expression), self.names, gaze)
        look = sample_look(rng, np.asarray(albedo), np.asarray(style))
        shape = person(figure.head, identity, expression, look.albedo, look.style)
        landmarks = np.asarray(shape["landmarks"], np.float64)
        vertices = np.asarray(shape["vertices"], np.float64)
        vertices = pose.turn_eyes(vertices, self.dresser.balls, gaze)
        camera, azimuth = pose.sample_camera(rng, config.size, landmarks)
        yaw = rng.choice([0.0, rng.uniform()]) * azimuth + rng.normal(0, np.radians(10))
        turn = np.array([rng.normal(0, 0.1), np.clip(yaw, -0.9, 0.9), rng.normal(0, 0.07)])
        scene = self.dresser.dress(rng, look, vertices, landmarks, turn)
        scene |= {"lighting": lighting, "shine": shine, "key": _key(lighting, shine)}
        scene = {
            k: np.asarray(v, np.int32 if k in ("glasses_faces", "glasses_lens") else np.float32)
            for k, v in scene.items()
        }
        image, labels, visible = render_figure(
            figure, scene, camera, config.size, config.supersampling
        )
        pixels = project_points(camera, landmarks)
        inside = ((pixels > 0) & (pixels < config.size)).all(1)
        return {
            "image": np.round(255 * np.asarray(image)).astype(np.uint8),
            "labels": np.asarray(labels).astype(np.uint8),
            "landmarks": pixels,
            "visible": np.asarray(visible) & inside,
            "seed": np.int64(seed),
        }


@jax.jit
def _drawn(sampler: HeadSampler, key):
    """Identity, expression, albedo, hair, and light of one person."""
    k = jax.random.split(key, 4)
    identity, expression = head_points.sample_codes(sampler, CODES, k[0])
    albedo = procedural_albedo.sample_parameters(k[1])
    return identity, expression, albedo, hair.sample_hair(k[2]), pose.sample_lights(k[3])


@jax.jit
def _key(lighting, shine):
    """Colour of the light from a direction."""
    return jnp.maximum(shading(shine[None], lighting)[0], 0.0)


def render_shards(folder: str | os.PathLike, config: FacesConfig) -> int:
    """Render the shards that `folder` lacks; progress on stderr.

    Args:
        folder: made if absent; shards go to `<split>/000000.npz`.
        config: what to render.

    Returns:
        number of shards written now.

    Raises:
        InputError: unusable model or configuration, or the folder holds shards of another one.
    """
    config.check()
    parent = pathlib.Path(folder) / config.split
    parent.mkdir(parents=True, exist_ok=True)
    settle_recipe(parent, config.recipe())
    paths = shard_paths(parent, config.first, config.count)
    todo = [(path, span) for path, span in paths if not has_shard(path, config.seeds(span))]
    if not todo:
        return 0
    studio = FaceStudio(config)
    progress = Progress(config.count, config.count - sum(len(span) for _, span in todo))
    for path, span in todo:
        examples = []
        for index in span:
            examples.append(studio.example(index))
            progress.step()
        save_shard(path, examples, compress=False)
    return len(todo)
