"""The guided filter against its definition, and what it is for."""

import numpy as np
import pytest

from jaxrecon.detect.crops import Crop
from jaxrecon.detect.guided import guided_filter
from jaxrecon.detect.looks import follow_edges


def halves(image):
    """Means of squares of four pixels."""
    h, w = image.shape[:2]
    return image.reshape(h // 2, 2, w // 2, 2, *image.shape[2:]).mean((1, 3))


def doubled(image):
    """Bilinear, from the definition: pixel centres at + 0.5, clamped at the rim."""
    out = np.zeros((2 * image.shape[0], 2 * image.shape[1]))
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            v = np.clip((y + 0.5) / 2 - 0.5, 0, image.shape[0] - 1)
            u = np.clip((x + 0.5) / 2 - 0.5, 0, image.shape[1] - 1)
            i, j = int(v), int(u)
            i2, j2 = min(i + 1, image.shape[0] - 1), min(j + 1, image.shape[1] - 1)
            a, b = v - i, u - j
            top = (1 - b) * image[i, j] + b * image[i, j2]
            out[y, x] = (1 - a) * top + a * ((1 - b) * image[i2, j] + b * image[i2, j2])
    return out


def from_definition(guide, values, radius, epsilon, weight):
    """One channel: a ridge regression in every window, one after another."""
    guide2, weight2 = halves(guide), halves(weight)
    values2 = halves(values)
    h, w = values2.shape
    r = radius // 2

    def window(i, j):
        return [
            (np.clip(y, 0, h - 1), np.clip(x, 0, w - 1))
            for y in range(i - r, i + r + 1)
            for x in range(j - r, j + r + 1)
        ]

    fits = {}
    for i in range(h):
        for j in range(w):
            cells = window(i, j)
            share = np.array([weight2[c] for c in cells])
            if share.sum() <= 0:
                continue
            share = share / share.sum()
            colours = np.array([guide2[c] for c in cells])
            p = np.array([values2[c] for c in cells])
            centred = colours - share @ colours
            level = share @ p
            covariance = (centred * share[:, None]).T @ centred + epsilon * np.eye(3)
            joint = (centred * share[:, None]).T @ (p - level)
            slope = np.linalg.solve(covariance, joint)
            fits[i, j] = (
                slope,
                level - slope @ (share @ colours),
                slope @ joint,
                share @ (p - level) ** 2,
            )
    slopes, offsets, trust = np.zeros((h, w, 3)), np.zeros((h, w)), np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            own = [fits[c] for c in window(i, j) if c in fits]
            if not own:
                continue
            slopes[i, j] = np.mean([f[0] for f in own], axis=0)
            offsets[i, j] = np.mean([f[1] for f in own])
            explained, variance = (np.mean([f[k] for f in own]) for k in (2, 3))
            trust[i, j] = np.sqrt(np.clip((explained + 1e-4) / (variance + 1e-4), 0, 1))
    q = sum(doubled(slopes[..., k]) * guide[..., k] for k in range(3)) + doubled(offsets)
    return np.clip(values + doubled(trust) * (q - values), 0, 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_what_its_definition_says(weighted):
    rng = np.random.default_rng(0)
    guide = rng.uniform(size=(16, 20, 3))
    values = rng.uniform(0.01, 0.9, size=(16, 20, 2)).astype(np.float32)
    weight = np.ones((16, 20))
    if weighted:
        weight[:9], weight[:, 15:] = 0.0, 0.0  # a part of the windows has none at all
    out = guided_filter(guide, values, 4, 1e-3, weight if weighted else None)
    for c in range(2):
        want = from_definition(guide, values[..., c].astype(np.float64), 4, 1e-3, weight)
        np.testing.assert_allclose(out[..., c], want, atol=1e-5)


def test_a_label_in_a_corner_is_filtered_as_it_is_in_the_whole():
    """Nothing is computed far from a label: that must not show."""
    rng = np.random.default_rng(1)
    guide = rng.uniform(size=(40, 36, 3))
    values = np.zeros((40, 36, 1), np.float32)
    values[4:9, 21:26, 0] = rng.uniform(0.2, 1, size=(5, 5))
    out = guided_filter(guide, values, 4, 1e-3)
    want = from_definition(guide, values[..., 0].astype(np.float64), 4, 1e-3, np.ones((40, 36)))
    np.testing.assert_allclose(out[..., 0], want, atol=1e-5)


def step(size=64, at=0.5):
    """A picture of two colours that meet at a slanted edge, and which side a pixel is on."""
    y, x = np.mgrid[:size, :size] + 0.5
    side = x + 0.25 * y > at * 1.25 * size
    colours = np.where(side[..., None], [0.7, 0.4, 0.2], [0.2, 0.5, 0.6])
    return colours, side


def test_a_vague_outline_snaps_to_the_edge():
    guide, side = step()
    y, x = np.mgrid[:64, :64] + 0.5
    vague = 1 / (1 + np.exp(-(x + 0.25 * y - 43.0) / 4))  # three pixels off, and soft
    out = guided_filter(guide, vague[..., None].astype(np.float32), 12)[..., 0]
    before, after = ((p > 0.5) != side for p in (vague, out))
    assert before.sum() > 150
    assert after.sum() < 0.05 * before.sum()


def test_where_the_picture_says_nothing_the_answer_stays():
    y, x = np.mgrid[:64, :64] + 0.5
    values = 1 / (1 + np.exp(-(x - 30) / 2))
    noise = np.random.default_rng(2).normal(0, 0.05, (64, 64, 3))
    out = guided_filter(0.5 + noise, values[..., None].astype(np.float32), 12)[..., 0]
    assert np.mean((out > 0.5) != (values > 0.5)) < 0.02


def test_odd_pictures_and_constant_values():
    guide = np.random.default_rng(3).uniform(size=(33, 27, 3))
    values = np.full((33, 27, 2), 0.25, np.float32)
    np.testing.assert_allclose(guided_filter(guide, values, 3), values, atol=1e-6)


@pytest.mark.parametrize(("radius", "epsilon"), [(0, 1e-5), (3, 0.0)])
def test_windows_that_are_none_are_refused(radius, epsilon):
    with pytest.raises(ValueError, match="expected >= 1 and > 0"):
        guided_filter(np.zeros((4, 4, 3)), np.zeros((4, 4, 1)), radius, epsilon)


def test_labels_follow_edges_within_the_subject_and_sum_to_one():
    guide, side = step(128)
    photo = np.round(255 * guide).astype(np.uint8)
    photo[:, :32] = 250  # the background
    y, x = np.mgrid[:128, :128] + 0.5
    subject = 1 / (1 + np.exp(-(x - 36) / 3))
    right = 1 / (1 + np.exp(-(x + 0.25 * y - 84) / 3))
    values = np.stack([1 - subject, subject * (1 - right), subject * right], axis=-1)
    canvas = Crop(np.array([64.0, 64.0]), 128.0, 0.0, 128)
    out = follow_edges(photo, canvas, values.astype(np.float32), 16.0, 8.0)
    truth = np.where(x < 32, 0, np.where(side, 2, 1))
    before, after = (np.sum(v.argmax(-1) != truth) for v in (values, out))
    assert before > 500 and after < 0.3 * before
    np.testing.assert_allclose(out.sum(-1), 1.0, atol=1e-3)


def test_what_lies_beyond_the_photograph_teaches_nothing():
    """Clothes as grey as the margin, cut by the photograph's border, stay whole."""
    photo = np.full((64, 64, 3), 220, np.uint8)
    photo[20:, 16:48] = 128
    canvas = Crop(np.array([32.0, 48.0]), 96.0, 0.0, 96)
    x, y = np.meshgrid(np.arange(96) + 0.5 - 16, np.arange(96) + 0.5)
    inside = (x > 16) & (x < 48) & (y > 20) & (y < 64)
    values = np.where(inside, 0.9, 0.02)[..., None]
    values = np.concatenate([1 - values, values], axis=-1).astype(np.float32)
    out = follow_edges(photo, canvas, values, 20.0)
    assert np.array_equal(out[:64, 16:80, 1] > 0.5, inside[:64, 16:80])
    values[64:] = [0.1, 0.9]  # what the network says there does not matter either
    again = follow_edges(photo, canvas, values, 20.0)
    np.testing.assert_allclose(again[:64, 16:80], out[:64, 16:80], atol=1e-6)
