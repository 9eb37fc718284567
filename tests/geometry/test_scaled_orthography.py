"""The scaled orthographic view against views made by one."""

import numpy as np
import pytest

from jaxrecon.geometry.scaled_orthography import scaled_orthography


def _rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("n", [4, 5, 30])
def test_exact_views_are_recovered(n, rng):
    x, R, t = rng.normal(size=(n, 3)), _rotation(rng), np.array([12.0, -3.0])
    scale, found = scaled_orthography(7.5 * x @ R[:2].T + t, x)
    assert scale == pytest.approx(7.5, abs=1e-11)
    np.testing.assert_allclose(found, t, atol=1e-11)


def test_noise_is_fitted_by_least_squares(rng):
    x = rng.normal(size=(20, 3))
    p = 5 * x @ _rotation(rng)[:2].T + rng.normal(size=(20, 2))
    scale, t = scaled_orthography(p, x)
    A = np.column_stack([x, np.ones(20)])
    rows = np.linalg.inv(A.T @ A) @ A.T @ p  # the normal equations
    np.testing.assert_allclose(t, rows[3], atol=1e-10)
    assert scale == pytest.approx(np.linalg.norm(rows[:3], axis=0).mean(), abs=1e-10)


def test_flat_or_few_points_are_refused(rng):
    flat = rng.normal(size=(6, 3)) * [1, 1, 0]
    for x in (flat, rng.normal(size=(3, 3))):
        with pytest.raises(ValueError, match="fewer than four points or a flat object"):
            scaled_orthography(x[:, :2], x)
