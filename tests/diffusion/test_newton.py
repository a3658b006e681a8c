"""Polynomials in log sigma: exact for polynomials, and the moments by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from art_env.diffusion.newton import bend, falling_moments, growing_moments, nodes_of, steps_made

torch.set_num_threads(1)


def _t(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("h", [0.05, 1.0, 6.0])
def test_moments_by_quadrature(h):
    for make, weight in (
        (growing_moments, lambda u: np.exp(u - h)),
        (falling_moments, lambda u: np.exp(-u)),
    ):
        for i, moment in enumerate(make(_t(h), 4)):
            exact = quad(lambda u, w=weight, i=i: w(u) * u**i, 0, h, epsabs=0)[0]
            assert float(moment) == pytest.approx(exact, rel=1e-8)


def test_bend_is_exact_for_polynomials():
    h, nodes = _t([0.7, 1.2]), [_t([0.0, 0.0]), _t([-0.4, -1.0]), _t([-1.5, -1.1]), _t([0.7, 1.2])]
    values = [(2 - u + 3 * u**2 - 0.5 * u**3)[:, None] for u in nodes]
    got = bend(nodes, values, growing_moments(h, 4))
    for row in (0, 1):
        end = float(h[row])
        exact = quad(lambda u, e=end: np.exp(u - e) * (-u + 3 * u**2 - 0.5 * u**3), 0, end)[0]
        assert float(got[row]) == pytest.approx(exact, rel=1e-10)


def test_steps_that_were_not_made_have_nodes_of_their_own():
    sigma = _t([1.0, 1.0, 1.0, 0.0])
    past = [(None, _t([2.0, 2.0, 0.0, 3.0])), (None, _t([5.0, 0.0, 0.0, 4.0]))]
    made = steps_made(sigma, past)
    assert [m.tolist() for m in made] == [[True, True, False, False], [True, False, False, False]]
    nodes = torch.stack(nodes_of(sigma, past, made))
    np.testing.assert_allclose(nodes[:, 0], -np.log([1.0, 2.0, 5.0]))
    np.testing.assert_allclose(nodes[:, 1], [0.0, -np.log(2.0), -np.log(2.0) - 1])
    np.testing.assert_allclose(nodes[:, 2:], [[0, 0], [-1, -1], [-2, -2]])
