"""Examples: one person in one expression, photographed by several cameras.

`Studio.example` is a function of the configuration and of (split, index), and of nothing else: any
process may render any example, in any order, and an interrupted build goes on with what is missing.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import sys
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from data_pipelines.head_cameras import orbit_camera, visible_points
from data_pipelines.lighting import sample_lighting
from data_pipelines.morphable_heads import hair
from data_pipelines.morphable_heads.background import background
from data_pipelines.morphable_heads.head import Head, person, prepare_head, render
from jaxrecon.errors import InputError
from jaxrecon.models.parametric import procedural_albedo
from jaxrecon.types import Cameras

RECIPE = 1
"""Raised with every change of what an example contains, so that old renders are not mixed in."""
SPLITS = ("train", "validation", "test")
SEEDS_PER_SPLIT = 1_000_000
"""Identity seeds of a split: train has 0 to 999,999, validation the next million, test the third.
"""


@dataclasses.dataclass(frozen=True)
class HeadsConfig:
    """What to build."""

    model: str
    """head model .npz with semantic masks"""
    identities: int = 100
    """people in `train`"""
    held_out: int = 10
    """people in `validation`, and as many again in `test`"""
    expressions: int = 1
    """expressions of each person; each is an example"""
    views: int = 4
    """pictures of each example"""
    size: int = 256
    """height and width, pixels"""
    supersampling: int = 3
    """samples along each side of a pixel, odd"""
    modes: int = 100
    """identity modes of the model that vary"""
    azimuth: float = 60.0
    """cameras stand within this many degrees of the front"""
    seed: int = 0
    """everything random follows from it"""

    def check(self) -> None:
        """Raise `InputError` if the configuration is not sound."""
        counts = (self.identities, self.expressions, self.views, self.modes)
        if min(counts) < 1 or not 0 <= self.held_out or self.size < 16:
            raise InputError(
                f"{self}", "positive numbers, held_out not negative, size >= 16", "change them"
            )
        if self.supersampling % 2 == 0 or self.supersampling < 1:
            raise InputError(
                f"supersampling {self.supersampling}", "an odd number", "use 1, 3 or 5"
            )
        if max(self.identities, self.held_out) > SEEDS_PER_SPLIT:
            raise InputError(
                f"{self.identities} identities", f"at most {SEEDS_PER_SPLIT} a split", "fewer"
            )

    def people(self, split: str) -> int:
        """Number of people of a split."""
        return self.identities if split == "train" else self.held_out

    def count(self, split: str) -> int:
        """Number of examples of a split."""
        return self.people(split) * self.expressions

    def recipe(self) -> str:
        """Twelve hexadecimal digits that name what an example looks like, whatever the numbers of
        people and expressions: growing a data set keeps what is rendered.
        """
        return _recipe(self)


PRESETS = {
    "small": {},
    # 95 people in 8 expressions, as experiments/implicit_deformation trains on, about 40 views each
    "paper": {"identities": 95, "expressions": 8, "views": 40, "azimuth": 90.0},
}
"""Options of `HeadsConfig` by the name of a preset."""


@functools.lru_cache(maxsize=8)
def _recipe(config: HeadsConfig) -> str:
    path = pathlib.Path(config.model)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file", "a head model (.npz)", "see data_pipelines/README.md"
        )
    used = dataclasses.asdict(config)
    for name in ("model", "identities", "held_out", "expressions"):
        del used[name]
    digest = hashlib.sha256(json.dumps([RECIPE, used], sort_keys=True).encode())
    digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def sample_cameras(
    rng: np.random.Generator, views: int, size: int, azimuth: float, target: np.ndarray
) -> Cameras:
    """Cameras spread over an arc in front of a head, at portrait to telephoto distances.

    Args:
        rng: source of randomness.
        views: n pictures; each has its own stretch of the arc.
        size: height and width, pixels.
        azimuth: half of the arc, degrees.
        target: (3,) middle of the head, mm.

    Returns:
        `Cameras` of batch (n,), float32: what is stored is what was rendered.
    """
    cameras = []
    for i in range(views):
        turn = np.radians(azimuth * (2 * (i + rng.uniform()) / views - 1))
        elevation = np.radians(np.clip(rng.normal(3, 12), -28, 32))
        roll = np.radians(np.clip(rng.normal(0, 6), -18, 18))
        distance = 450 * (1800 / 450) ** rng.uniform()
        # A head of 290 mm fills 50 to 95 % of the height.
        focal = size * rng.uniform(0.5, 0.95) * distance / 290.0
        centre = size * (0.5 + rng.uniform(-0.05, 0.05, 2))
        cameras.append(orbit_camera(turn, elevation, roll, distance, focal, centre, target))
    return jax.tree.map(lambda *a: np.stack(a).astype(np.float32), *cameras)


def project_points(camera: Cameras, points: np.ndarray) -> np.ndarray:
    """Pixels (n, 2), float32, of world points (n, 3) in one camera."""
    x = (points.astype(np.float64) @ np.float64(camera.R).T + camera.t) @ np.float64(camera.K).T
    return (x[:, :2] / x[:, 2:]).astype(np.float32)


def encode_png(image: np.ndarray) -> bytes:
    """A uint8 picture (h, w) or (h, w, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


class Studio:
    """A head model with its cameras and lamps; made once a process."""

    def __init__(self, config: HeadsConfig):
        config.check()
        self.config = config
        self.head: Head = prepare_head(config.model, config.modes)
        model = self.head.model
        self.sampler = head_points.make_sampler(model, head_points.SampleConfig(), config.modes)
        self._background = jax.jit(background, static_argnums=1)

    def example(self, split: str, index: int) -> dict[str, Any]:
        """Example `index` of a split: arrays, and PNG files in lists over the views.

        Keys, dtypes and shapes: data_pipelines/README.md.
        """
        config, head = self.config, self.head
        number, expression_index = divmod(index, config.expressions)
        seed = SPLITS.index(split) * SEEDS_PER_SPLIT + number
        base = jax.random.fold_in(jax.random.key(config.seed), seed)
        k_shape, k_albedo, k_hair = jax.random.split(jax.random.fold_in(base, 0), 3)
        k_expression, k_light, k_camera, k_background = jax.random.split(
            jax.random.fold_in(base, 1 + expression_index), 4
        )
        codes = head_points.SampleConfig()
        identity, _ = head_points.sample_codes(self.sampler, codes, k_shape)
        expression = head_points.sample_expression(self.sampler, k_expression, codes.neutral)
        albedo = procedural_albedo.sample_parameters(k_albedo)
        style = hair.sample_hair(k_hair)
        lighting = sample_lighting(k_light)
        shape = person(head, identity, expression, albedo, style)
        landmarks = np.asarray(shape["landmarks"])

        # The middle of the head: the nose tip, moved back and up.
        target = landmarks[30].astype(np.float64) + np.array([0.0, 12.0, -100.0])
        rng = np.random.default_rng(np.asarray(jax.random.key_data(k_camera)).tolist())
        cameras = sample_cameras(rng, config.views, config.size, config.azimuth, target)
        images, masks, parsings, pixels, visible = [], [], [], [], []
        for i in range(config.views):
            camera = jax.tree.map(lambda a: a[i], cameras)  # noqa: B023
            rgba, labels = render(
                head, shape, albedo, style, lighting, camera, config.size, config.supersampling
            )
            behind = self._background(jax.random.fold_in(k_background, i), config.size)
            images.append(encode_png(np.asarray(_over(rgba, behind))))
            parsing = np.asarray(labels).astype(np.uint8)
            parsings.append(encode_png(parsing))
            masks.append(encode_png(255 * (parsing > 0).astype(np.uint8)))
            pixels.append(project_points(camera, landmarks))
            centre = jnp.asarray(-camera.R.T @ camera.t)
            reached = visible_points(shape["landmarks"], centre, shape["vertices"], head.faces)
            inside = ((pixels[-1] > 0) & (pixels[-1] < config.size)).all(1)
            visible.append(np.asarray(reached) & inside)
        return {
            "identity_seed": np.array(seed, np.int64),
            "expression_index": np.array(expression_index, np.int64),
            "identity": np.asarray(identity),
            "expression": np.asarray(expression),
            "albedo": np.asarray(albedo),
            "hair": np.asarray(style),
            "lighting": np.asarray(lighting),
            "landmarks3d": landmarks,
            "K": cameras.K,
            "R": cameras.R,
            "t": cameras.t,
            "landmarks2d": np.stack(pixels),
            "visible": np.stack(visible),
            "image": images,
            "mask": masks,
            "parsing": parsings,
        }


@jax.jit
def _over(rgba, behind):
    """uint8 RGB of a picture with alpha over a background."""
    alpha = rgba[..., 3:]
    return jnp.round(255 * (rgba[..., :3] * alpha + behind * (1 - alpha))).astype(jnp.uint8)


def save_example(path: pathlib.Path, example: dict) -> None:
    """Write an example (.npz without pickles), by way of a temporary name of this process."""
    flat = {}
    for name, value in example.items():
        if isinstance(value, list):
            flat |= {f"{name}.{i}": np.frombuffer(v, np.uint8) for i, v in enumerate(value)}
        else:
            flat[name] = value
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.npz")
    np.savez(temporary, **flat)
    os.replace(temporary, path)


def read_example(path: pathlib.Path) -> dict:
    """An example of `save_example`."""
    with np.load(path, allow_pickle=False) as file:
        flat = {name: file[name] for name in file.files}
    example = {name: value for name, value in flat.items() if "." not in name}
    for name in sorted({n.split(".")[0] for n in flat if "." in n}):
        count = sum(n.startswith(f"{name}.") for n in flat)
        example[name] = [flat[f"{name}.{i}"].tobytes() for i in range(count)]
    return example


def example_path(folder: pathlib.Path, config: HeadsConfig, split: str, index: int) -> pathlib.Path:
    """Where a rendered example waits to be packed; named by person and expression, so that a
    larger data set finds it again.
    """
    number, expression = divmod(index, config.expressions)
    return folder / config.recipe() / split / f"{number:06d}_{expression:03d}.npz"


def missing_examples(folder: pathlib.Path, config: HeadsConfig) -> list[tuple[str, int]]:
    """(split, index) of every example that is not rendered yet."""
    wanted = [(split, i) for split in SPLITS for i in range(config.count(split))]
    return [(s, i) for s, i in wanted if not example_path(folder, config, s, i).is_file()]


_studio: Studio | None = None


def _start_worker(config: HeadsConfig) -> None:
    global _studio
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A worker whose parent was killed would wait for work for ever.
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    _studio = Studio(config)


def _follow(parent) -> None:
    parent.join()
    os._exit(1)


def _render_one(folder: pathlib.Path, config: HeadsConfig, split: str, index: int) -> None:
    assert _studio is not None
    save_example(example_path(folder, config, split, index), _studio.example(split, index))


def render_missing(folder: pathlib.Path, config: HeadsConfig, workers: int = 0) -> int:
    """Render what `folder` lacks, telling how far it is and when it will be done on stderr.

    Args:
        folder: holds rendered examples, one file each; made if absent.
        config: what to render.
        workers: processes that share the work; 0 renders in this one.

    Returns:
        the number of examples rendered now.
    """
    todo = missing_examples(folder, config)
    if not todo:
        return 0
    for split in SPLITS:
        (folder / config.recipe() / split).mkdir(parents=True, exist_ok=True)
    total = sum(config.count(split) for split in SPLITS)
    progress = Progress(total, total - len(todo))
    if workers <= 0:
        _start_worker(config)
        for split, index in todo:
            _render_one(folder, config, split, index)
            progress.step()
        return len(todo)
    # Fresh processes: a forked child must not use the parent's JAX.
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker, (config,)
    ) as pool:
        jobs = [pool.submit(_render_one, folder, config, split, index) for split, index in todo]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
                progress.step()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(todo)


class Progress:
    """One line on stderr: done, total, seconds an example, time left."""

    def __init__(self, total: int, done: int):
        self.total, self.done = total, done
        self.first, self.start, self.shown = done, time.monotonic(), 0.0

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.monotonic()
        last, interactive = self.done == self.total, sys.stderr.isatty()
        if self.done == self.first + 1:
            # The first waits for compilation: the pace counts from there.
            self.start = now
            text = f"rendered {self.done}/{self.total}"
        elif not last and now - self.shown < (0.2 if interactive else 10.0):
            return
        else:
            pace = (now - self.start) / (self.done - self.first - 1)
            left = int(pace * (self.total - self.done))
            text = (
                f"rendered {self.done}/{self.total}, {pace:.2f} s an example, "
                f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
            )
        self.shown = now
        end = "" if interactive and not last else "\n"
        print(f"\r{text}  " if interactive else text, end=end, file=sys.stderr, flush=True)
