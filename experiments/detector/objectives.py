"""The loss of the detectors: points, visibility, labels, and where subjects are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from data_pipelines.detector_augment import body_example, face_example, photograph
from experiments.detector.config import TrainConfig, Weights
from jaxrecon.detect.network import (
    FIND_STRIDE,
    OFFSET,
    POINT_STRIDE,
    DetectorConfig,
    DetectorNetwork,
    Output,
)
from jaxrecon.models.batch_norm import apply_network

IN_SCALE = 0.45
"""Subjects within this |log(size / reference)| are to be found at that scale."""
UNDECIDED = 0.75
"""Beyond this they are not; between, nothing is asked."""


def point_loss(
    output: Output,
    points: Float[Array, "b n 2"],
    weight: Float[Array, "b n"],
    visible: Bool[Array, "b n"],
    asked: Bool[Array, " b"],
) -> dict[str, Array]:
    """Parts of the loss that concern points, means over those that count.

    Args:
        output: of the network.
        points: pixels.
        weight: of each point; 0 where it lies outside of the picture.
        visible: whether it can be seen.
        asked: pictures whose subject is in scale, or that have none.
    """
    total = jnp.maximum(weight.sum(), 1e-6)
    cells = points / POINT_STRIDE
    b, h, w, n = output.maps.shape

    def bump(size, place):
        away = (jnp.arange(size) + 0.5)[None, None] - place[..., None]
        return jax.nn.softmax(-0.5 * away**2, axis=-1)

    x, y = bump(w, cells[..., 0]), bump(h, cells[..., 1])
    log_p = jax.nn.log_softmax(output.maps.reshape(b, h * w, n), axis=1).reshape(b, h, w, n)
    cross = -jnp.einsum("byxn,bny,bnx->bn", log_p, y, x)
    error = (output.points - points) / POINT_STRIDE
    distance = jnp.sqrt(jnp.sum(error**2, axis=-1) + 1e-6)
    squared = jax.lax.stop_gradient(jnp.sum((output.points - points) ** 2, axis=-1)) / 2
    likelihood = 0.5 * squared * jnp.exp(-2 * output.log_spread) + output.log_spread
    seen = _binary(output.visible, visible)
    count = jnp.maximum(asked.sum() * n, 1)
    return {
        "maps": jnp.sum(weight * cross) / total,
        "points": jnp.sum(weight * distance) / total,
        "spread": jnp.sum(weight * likelihood) / total,
        "visible": jnp.sum(seen * asked[:, None]) / count,
    }


def _binary(logits, truth):
    """Cross entropy of logits with true or false."""
    return jax.nn.softplus(jnp.where(truth, -logits, logits))


def label_loss(
    logits: Float[Array, "b h w c"], labels: Int[Array, "b h w"], rare: float = 0.25
) -> dict[str, Array]:
    """Cross entropy, classes weighted by their frequency in the batch to the power of -`rare`
    (between 1 and 8 times the commonest), and one less the mean soft intersection over union of
    the classes that the batch has.
    """
    classes = logits.shape[-1]
    truth = jax.nn.one_hot(labels, classes)
    log_p = jax.nn.log_softmax(logits)
    share = truth.mean((0, 1, 2))
    weight = jnp.clip((share.max() / jnp.maximum(share, 1e-6)) ** rare, 1.0, 8.0)
    own = (truth * weight[None, None, None]).sum(-1)
    cross = -(truth * log_p).sum(-1)
    p = jnp.exp(log_p)
    both = (p * truth).sum((0, 1, 2))
    either = (p + truth - p * truth).sum((0, 1, 2))
    there = share > 0
    overlap = jnp.sum(jnp.where(there, both / jnp.maximum(either, 1e-6), 0.0)) / there.sum()
    return {"labels": jnp.sum(own * cross) / jnp.sum(own), "overlap": 1.0 - overlap}


def find_loss(
    config: DetectorConfig,
    found: Float[Array, "b h w 4"],
    centre: Float[Array, "b 2"],
    extent: Float[Array, " b"],
    present: Bool[Array, " b"],
) -> Array:
    """Focal cross entropy (Lin et al., ICCV 2017, gamma 2) of the grid, and the errors of centre
    and size where a subject in scale is.
    """
    h, w = found.shape[1:3]
    cell = jnp.floor(centre / FIND_STRIDE)
    y, x = jnp.arange(h)[None, :, None], jnp.arange(w)[None, None, :]
    away = jnp.maximum(jnp.abs(x - cell[:, 0, None, None]), jnp.abs(y - cell[:, 1, None, None]))
    octave = jnp.abs(jnp.log(extent / config.reference))
    here = (away == 0) & (present & (octave < IN_SCALE))[:, None, None]
    unasked = (away <= 1) & (present & (octave < UNDECIDED))[:, None, None] & ~here
    p = jax.nn.sigmoid(found[..., 0])
    hard = jnp.where(here, 1 - p, p) ** 2
    cross = jnp.where(unasked, 0.0, hard * _binary(found[..., 0], here))
    middle = (jnp.stack(jnp.broadcast_arrays(x, y), -1) + 0.5) * FIND_STRIDE
    offset = (centre[:, None, None] - middle) / OFFSET
    size = jnp.log(extent / config.reference)[:, None, None, None]
    truth = jnp.concatenate([offset, jnp.broadcast_to(size, (*offset.shape[:3], 1))], axis=-1)
    wrong = jnp.abs(found[..., 1:] - truth).sum(-1)
    count = jnp.maximum(here.sum(), 1)
    return (cross.sum() + jnp.sum(jnp.where(here, wrong, 0.0))) / count


def total_loss(
    config: DetectorConfig, weights: Weights, output: Output, batch: dict
) -> tuple[Array, dict]:
    """Weighted sum of all parts, and metrics.

    Args:
        config: of the network.
        weights: of the parts.
        output: of the network.
        batch: of `photograph`, with a batch axis.
    """
    octave = jnp.abs(jnp.log(batch["extent"] / config.reference))
    scaled = octave < UNDECIDED
    counts = (batch["inside"] & (scaled & batch["present"])[:, None]).astype(jnp.float32)
    weight = counts * jnp.where(batch["visible"], 1.0, weights.hidden)
    asked = scaled | ~batch["present"]
    parts = point_loss(output, batch["points"], weight, batch["visible"], asked)
    parts |= label_loss(output.labels, batch["labels"])
    parts["found"] = find_loss(
        config, output.found, batch["centre"], batch["extent"], batch["present"]
    )
    total = sum(getattr(weights, name) * value for name, value in parts.items())
    seen = (counts > 0) & batch["visible"]
    distance = jnp.linalg.norm(output.points - batch["points"], axis=-1)
    relative = distance / batch["extent"][:, None]
    guess = jnp.argmax(output.labels, -1)
    metrics = parts | {
        "error": jnp.sum(relative * seen) / jnp.maximum(seen.sum(), 1),
        "right": jnp.mean(guess == batch["labels"]),
    }
    return jnp.asarray(total), metrics


def take_pictures(
    config: TrainConfig, batch: dict, photos: Array | np.ndarray | None = None
) -> dict:
    """Stored examples (leaves of `data.load_split` with keys, a batch axis first) as training
    pictures, before `photos` (m, s, s, 3) or None.
    """
    face = config.subject == "face"

    def one(item):
        if face:
            example = face_example(item["image"], item["labels"], item["points"], item["visible"])
        else:
            example = body_example(item["image"], item["points"], item["visible"])
        return photograph(config.augment, example, item["key"], config.mirror, photos)

    # One after another: as fast as side by side on a CPU, in a sixteenth of the memory.
    return jax.lax.map(one, batch)


def loss(
    config: TrainConfig,
    photos: Array | np.ndarray | None,
    params: dict,
    batch_stats: dict,
    batch: dict,
):
    """(loss, (metrics, new batch_stats)) of stored examples with their keys."""
    pictures = jax.lax.stop_gradient(take_pictures(config, batch, photos))
    variables = {"params": params, "batch_stats": batch_stats}
    network = DetectorNetwork(config.network)
    output, stats = apply_network(network, variables, pictures["image"], train=True)
    value, metrics = total_loss(config.network, config.weights, output, pictures)
    return value, (metrics, stats)


def make_loss(config: TrainConfig, photos: Array | np.ndarray | None = None):
    """`loss` of a run, as `training.step` takes it."""
    return functools.partial(loss, config, photos)
