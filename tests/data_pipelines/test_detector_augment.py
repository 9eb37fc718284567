"""Training pictures: points, labels and visibility follow the pixels, and files are like files."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import detector_augment, detector_pixels
from data_pipelines.detector_augment import (
    AugmentConfig,
    body_example,
    face_example,
    mips,
    photograph,
    sample_mips,
)
from jaxrecon.types import BODY_25, BODY_25_MIRRORED, LANDMARKS_MIRRORED

SIDE = 96
PLAIN = AugmentConfig(
    size=64, share_far=0.0, share_empty=0.0, share_occluded=0.0, share_framed=0.0, shift=0.03
)


@pytest.fixture(scope="module")
def face():
    """Nine discs, each of its own label, at the first nine landmarks; the others at the middle."""
    rng = np.random.default_rng(0)
    points = np.full((68, 2), SIDE / 2, np.float32)
    points[:9] = SIDE / 2 + 20 * np.stack(
        [np.cos(0.7 * np.arange(9)), np.sin(0.7 * np.arange(9))], 1
    )
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for k in range(9):
        labels[np.hypot(x - points[k, 0], y - points[k, 1]) < 5.0] = k + 1
    image = rng.integers(0, 255, (SIDE, SIDE, 4)).astype(np.uint8)
    image[..., 3] = 255 * (labels > 0)
    return image, labels, points, np.arange(68) < 9


def picture(face, key, config=PLAIN):
    image, labels, points, visible = (jnp.asarray(a) for a in face)
    return _picture(config, image, labels, points, visible, key)


def _take(config, image, labels, points, visible, key):
    return photograph(config, face_example(image, labels, points, visible), key, LANDMARKS_MIRRORED)


_picture = jax.jit(_take, static_argnums=0)


@pytest.mark.parametrize("seed", range(8))
def test_points_follow_their_labels(face, seed):
    out = picture(face, jax.random.key(seed))
    y, x = np.mgrid[:64, :64] + 0.5
    labels = np.asarray(out["labels"])
    place = [[x[labels == k + 1].mean(), y[labels == k + 1].mean()] for k in range(9)]
    # In a mirrored picture landmark j is the mirror image of landmark LANDMARKS_MIRRORED[j].
    mirrored = not np.asarray(out["visible"])[:9].all()
    rows = [LANDMARKS_MIRRORED.index(k) if mirrored else k for k in range(9)]
    np.testing.assert_allclose(np.asarray(out["points"])[rows], place, atol=0.35)
    assert np.asarray(out["visible"]).sum() == 9


def test_half_of_the_pictures_are_mirrored(face):
    out = [picture(face, jax.random.key(i)) for i in range(40)]
    mirrored = sum(not bool(o["visible"][:8].all()) for o in out)
    assert 8 < mirrored < 32


@pytest.mark.parametrize("mirror", [LANDMARKS_MIRRORED, BODY_25_MIRRORED])
def test_mirroring_twice_is_nothing(mirror):
    np.testing.assert_array_equal(np.array(mirror)[list(mirror)], np.arange(len(mirror)))


def test_the_body_s_mirror_swaps_names():
    swapped = [
        n.replace("left", "?").replace("right", "left").replace("?", "right") for n in BODY_25
    ]
    assert [BODY_25[i] for i in BODY_25_MIRRORED] == swapped


def test_empty_pictures_have_nobody(face):
    config = dataclasses.replace(PLAIN, share_empty=1.1)
    out = picture(face, jax.random.key(0), config)
    assert not out["present"] and not out["visible"].any() and not out["labels"].any()


def test_what_is_covered_or_beyond_the_border_is_not_seen(face):
    config = dataclasses.replace(PLAIN, share_occluded=1.1, share_framed=1.1)
    hidden = 0
    for seed in range(12):
        out = picture(face, jax.random.key(seed), config)
        labels, points = np.asarray(out["labels"]), np.asarray(out["points"])
        for p, seen in zip(points, np.asarray(out["visible"]), strict=True):
            if seen:
                assert labels[int(p[1]), int(p[0])] > 0
        hidden += 9 - int(out["visible"].sum())
    assert hidden > 3


@pytest.mark.parametrize("lengthen", [True, False])
def test_below_its_frame_a_subject_goes_on_or_the_photograph_ends(lengthen):
    image = np.full((SIDE, SIDE, 4), 255, np.uint8)
    image[: SIDE // 2, :, 3] = 0
    labels = (image[..., 3] > 0).astype(np.uint8)
    points = np.full((68, 2), SIDE / 2, np.float32)
    middle = [27, 8, 57]  # a mirrored picture has them at the same places
    points[middle] = [[20, 20], [70, 20], [20, 70]]
    config = dataclasses.replace(PLAIN, lengthen=lengthen, degraded=lengthen)
    y, x = np.mgrid[:64, :64] + 0.5
    count = 0
    for seed in range(8):
        out = picture((image, labels, points, np.ones(68, bool)), jax.random.key(seed), config)
        corners = np.concatenate([np.asarray(out["points"])[middle], np.ones((3, 1))], 1)
        to_render = np.linalg.solve(corners, points[middle])
        place = np.stack([x, y, np.ones_like(x)], -1) @ to_render
        across = (place[..., 0] > 1) & (place[..., 0] < SIDE - 1)
        below = across & (place[..., 1] > SIDE + 1)
        shown = across & (place[..., 1] > SIDE / 2 + 1) & (place[..., 1] < SIDE - 1)
        seen = np.asarray(out["labels"])
        assert (seen[shown] == 1).all() and (seen[below] == lengthen).all()
        pixels = np.asarray(out["image"])
        if not lengthen:
            assert (pixels[below] == 0.5).all()
            np.testing.assert_allclose(pixels[shown], 1.0, atol=1e-5)
        count += below.sum()
    assert count > 500


def test_one_key_one_picture(face):
    a, b = (picture(face, jax.random.key(3)) for _ in range(2))
    c = picture(face, jax.random.key(4))
    np.testing.assert_array_equal(a["image"], b["image"])
    assert np.abs(np.asarray(a["image"]) - np.asarray(c["image"])).mean() > 0.02
    assert float(a["image"].min()) >= 0 and float(a["image"].max()) <= 1


def test_bounds_of_a_body():
    image = np.zeros((SIDE, SIDE, 4), np.uint8)
    image[10:70, 30:50, 3] = 255
    example = body_example(jnp.asarray(image), jnp.zeros((25, 2)), jnp.ones(25, bool))
    np.testing.assert_allclose(example["centre"], [40.0, 40.0])
    assert float(example["extent"]) == 60.0


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0, 4.0])
def test_mips_keep_linear_pictures(scale):
    y, x = jnp.mgrid[:64, :64] + 0.5
    rows, sides = mips(jnp.stack([x, y], -1))
    places = jnp.asarray(np.random.default_rng(0).uniform(8, 56, (50, 2)), jnp.float32)
    got = sample_mips(rows, sides, places, jnp.asarray(scale))
    np.testing.assert_allclose(got, places, atol=1e-3)


def test_far_pictures_are_averaged():
    stripes = jnp.zeros((64, 64, 1)).at[::2].set(1.0)
    rows, sides = mips(stripes)
    got = sample_mips(rows, sides, jnp.full((5, 2), 30.3), jnp.asarray(4.0))
    np.testing.assert_allclose(got, 0.5, atol=1e-6)


@pytest.mark.parametrize("quality", [25, 60, 90])
def test_jpeg_is_pillow_s(quality):
    from PIL import Image

    rng = np.random.default_rng(0)
    grey = np.kron(rng.uniform(40, 215, (8, 8)), np.ones((8, 8))) + rng.normal(0, 12, (64, 64))
    grey = np.clip(np.round(grey), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "JPEG", quality=quality)
    truth = np.asarray(Image.open(buffer)).astype(float)
    planes = jnp.broadcast_to(jnp.asarray(grey, jnp.float32)[None] / 255, (3, 64, 64))
    got = 255 * np.asarray(detector_pixels.jpeg(planes, jnp.asarray(float(quality))))
    np.testing.assert_allclose(got[0], got[2], atol=1e-2)
    assert np.abs(np.clip(got[1], 0, 255) - truth).mean() < 0.8
    assert np.abs(grey - truth).mean() > 2  # it does something


def test_blur_is_a_gaussian():
    from scipy.ndimage import gaussian_filter1d

    rng = np.random.default_rng(0)
    signal = rng.uniform(size=(40, 40)).astype(np.float32)
    G = np.asarray(detector_pixels._gaussian(40, jnp.asarray(1.3)))
    truth = gaussian_filter1d(signal, 1.3, axis=0, mode="constant")
    np.testing.assert_allclose((G @ signal)[8:-8], truth[8:-8], atol=2e-3)


def test_backgrounds_differ_and_are_colours():
    make = jax.jit(detector_pixels.clutter, static_argnums=1)
    walls = np.stack([make(jax.random.key(i), 64) for i in range(6)])
    assert walls.min() >= 0 and walls.max() <= 1
    assert np.abs(walls[:-1] - walls[1:]).mean((1, 2, 3)).min() > 0.02


def test_own_photographs_are_used_half_of_the_time(face):
    image, labels, points, visible = (jnp.asarray(a) for a in face)
    photos = jnp.full((2, 32, 32, 3), 0.5)
    example = face_example(image, labels, points, visible)
    behind = [
        detector_augment._own_background(k, jnp.zeros((64, 64, 3)), photos, 64).mean()
        for k in jax.random.split(jax.random.key(0), 40)
    ]
    assert 8 < sum(float(b) > 0.4 for b in behind) < 32
    out = photograph(PLAIN, example, jax.random.key(0), LANDMARKS_MIRRORED, photos)
    assert out["image"].shape == (64, 64, 3)
