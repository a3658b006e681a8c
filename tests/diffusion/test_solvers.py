"""Solvers: order of convergence, evaluations, and the carried slope."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from art_env.adapters.counting import CountedDenoiser
from art_env.diffusion import SOLVERS, GaussianDenoiser, get_solver, sample
from art_env.diffusion.steps import SolverState, euler_step, to_d
from art_env.problems.library import make_problem
from art_env.schedules import arctan, edm

torch.set_num_threads(1)

START, END = 3.0, 0.05
ODE = [name for name, solver in SOLVERS.items() if not solver.stochastic]


def _exact(x, start, end):
    return x * np.sqrt((1 + end**2) / (1 + start**2))


def _walk(solver, K):
    """``solver.step`` at every step (``sample`` would end with Euler), even in the angle."""
    denoiser = GaussianDenoiser()
    x = torch.tensor([[1.0], [-2.5]], dtype=torch.float64)
    levels = torch.tensor(np.tan(np.linspace(np.arctan(START), np.arctan(END), K + 1)))
    state = SolverState()
    for k in range(K):
        x, state = solver.step(denoiser, x, levels[k], levels[k + 1], state)
    return x


ORDERS = {"euler": 1, "rk4": 4, "unipc_2": 3, "unipc_3": 3}
# Its first step, which limits the order, has so small an error that the later ones, of order 4, still count most.
AT_LEAST = ("unipc_3",)


@pytest.mark.parametrize("name", ODE)
def test_order_of_convergence(name):
    solver = SOLVERS[name]
    assert solver.order == ORDERS.get(name, 2)
    exact = _exact(torch.tensor([[1.0], [-2.5]], dtype=torch.float64), START, END)
    errors = [float((_walk(solver, K) - exact).abs().max()) for K in (32, 64, 128)]
    for coarse, fine in pairwise(errors):
        seen = np.log2(coarse / fine)
        assert seen > 0.88 * solver.order
        assert name in AT_LEAST or seen < 1.12 * solver.order


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("euler", lambda K: K),
        ("heun", lambda K: 2 * K - 1),
        ("rk4", lambda K: 4 * K - 3),
        ("dpmpp_2m", lambda K: K),
        ("ipndm", lambda K: K),
        ("deis_2", lambda K: K),
        ("deis_3", lambda K: K),
        ("unipc_2", lambda K: K),
        ("unipc_3", lambda K: K),
    ],
)
@pytest.mark.parametrize("K", [1, 2, 7])
def test_evaluations_measured(name, count, K):
    denoiser = CountedDenoiser(GaussianDenoiser())
    sample(denoiser, torch.ones(6, 1, dtype=torch.float64), edm(K, 0.002, 80.0).sigmas, name)
    assert denoiser.nfe == count(K) == SOLVERS[name].nfe(K)
    assert denoiser.evals == 6 * count(K)


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("append_dims", [False, True])
def test_a_carried_slope_saves_one_evaluation(name, append_dims):
    denoiser = CountedDenoiser(make_problem("mixture-2d").denoiser)
    x = 2 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma, sigma_next = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    if append_dims:
        sigma, sigma_next = torch.linspace(2, 3, 5).double(), torch.linspace(0.5, 1, 5).double()
    d = to_d(denoiser, x, sigma)
    denoiser.reset()
    plain, state = SOLVERS[name].step(denoiser, x, sigma, sigma_next, SolverState())
    without = denoiser.nfe
    assert len(state.past) == min(1, SOLVERS[name].memory)
    denoiser.reset()
    carried, _ = SOLVERS[name].step(denoiser, x, sigma, sigma_next, SolverState(d))
    assert torch.equal(plain, carried)
    assert without == SOLVERS[name].evals_per_step
    assert denoiser.nfe == without - 1
    if append_dims:  # each row is its own trajectory
        alone, _ = SOLVERS[name].step(denoiser, x[3:4], sigma[3:4], sigma_next[3:4], SolverState())
        torch.testing.assert_close(alone, plain[3:4], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_sample_is_the_steps_with_euler_last(name):
    denoiser, levels = GaussianDenoiser(), torch.tensor(arctan(4, 0.0, 3.0).sigmas)
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    seen = []
    out = sample(denoiser, x, levels, name, callback=lambda k, y: seen.append((k, y)))
    for k in range(4):
        step = SOLVERS[name].step if k < 3 else euler_step
        x, _ = step(denoiser, x, levels[k], levels[k + 1], SolverState())
        assert seen[k][0] == k
        assert torch.equal(seen[k][1], x)
    assert torch.equal(out, x)


MULTISTEP = [name for name, solver in SOLVERS.items() if solver.memory]


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("end", [0.0, 0.05])
def test_sample_hands_on_what_multistep_solvers_remember(name, end):
    denoiser, solver = make_problem("mixture-1d").denoiser, SOLVERS[name]
    levels = torch.tensor([9.0, 4.0, 2.5, 1.1, 0.4, 0.2, end], dtype=torch.float64)
    x = torch.tensor([[5.0], [-11.0]], dtype=torch.float64)
    xs, levels_past, kept = x, [], []
    for k in range(6):
        d = to_d(denoiser, xs, levels[k])
        past = tuple(zip(kept, levels_past, strict=True))[: solver.memory]
        stepped, state = solver.step(
            denoiser, xs, levels[k], levels[k + 1], SolverState(d, past, steps_left=6 - k)
        )
        kept.insert(0, solver.remember(xs, levels[k], d))
        levels_past.insert(0, levels[k])
        assert torch.equal(state.past[0][0], kept[0])
        xs = stepped
    torch.testing.assert_close(sample(denoiser, x, levels, name), xs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", MULTISTEP)
def test_rows_with_and_without_a_past_step_together(name):
    """Rows of a vector environment may be at different steps; 0 marks a step that was not made."""
    denoiser, solver = GaussianDenoiser(), SOLVERS[name]
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    sigma = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    after = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    value = torch.tensor([[0.3], [0.0], [0.7]], dtype=torch.float64)
    empty = torch.zeros(3, dtype=torch.float64)
    level = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    past = ((value, level), (0 * value, empty), (0 * value, empty))[: solver.memory]
    together, _ = solver.step(denoiser, x, sigma, after, SolverState(None, past))
    for i in range(3):
        own = ((value[i : i + 1], level[i]),) if level[i] > 0 else ()
        alone, _ = solver.step(denoiser, x[i : i + 1], sigma[i], after[i], SolverState(None, own))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=1e-13)


def test_dpmpp_2m_uses_the_denoised_sample_of_halfway():
    """For a denoised sample that is linear in log sigma, against the exact solution by quadrature."""

    class Linear:
        shape, sigma_data = (1,), 1.0

        def __call__(self, x, sigma):
            level = torch.as_tensor(sigma, dtype=x.dtype)
            return (2.0 - 3.0 * torch.log(level)).reshape(-1, *([1] * (x.ndim - 1))).expand_as(x)

    def one_step(last, now, after):
        levels = torch.tensor([last, now, after], dtype=torch.float64)
        past = ((Linear()(torch.ones(1, 1, dtype=torch.float64), levels[0]), levels[0]),)
        x = torch.tensor([[4.0]], dtype=torch.float64)
        out, _ = SOLVERS["dpmpp_2m"].step(Linear(), x, levels[1], levels[2], SolverState(None, past))
        return float(out)

    halfway = 2.0 - 3.0 * np.log(3.0) / 2
    assert one_step(8.0, 3.0, 1.0) == pytest.approx(4.0 / 3.0 + (1 - 1 / 3.0) * halfway, rel=1e-12)
    # With u = -log sigma: (x / sigma)' = D exp(u).
    u = np.linspace(-np.log(2.0), -np.log(1.8), 10_001)
    exact = 1.8 * (4.0 / 2.0 + np.trapezoid((2.0 + 3.0 * u) * np.exp(u), u))
    assert one_step(2.5, 2.0, 1.8) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("name", ODE)
def test_gradient_through_the_whole_sampler(name):
    denoiser = make_problem("mixture-1d").denoiser
    x = torch.tensor([[40.0], [-90.0]], dtype=torch.float64)
    sigmas = edm(4, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas
    leaf = torch.tensor(sigmas, requires_grad=True)
    (grad,) = torch.autograd.grad(sample(denoiser, x, leaf, name).sum(), leaf)
    for k in (1, 2, 3):
        h = 1e-5 * sigmas[k]
        up, down = sigmas.copy(), sigmas.copy()
        up[k] += h
        down[k] -= h
        numeric = float((sample(denoiser, x, up, name) - sample(denoiser, x, down, name)).sum()) / (2 * h)
        assert float(grad[k]) == pytest.approx(numeric, rel=1e-4, abs=1e-9)


def test_names():
    assert get_solver("heun") is SOLVERS["heun"]
    assert get_solver(SOLVERS["rk4"]) is SOLVERS["rk4"]
    with pytest.raises(ValueError, match=r"unknown solver 'huen'. Did you mean 'heun'\?"):
        get_solver("huen")
    with pytest.raises(
        ValueError, match=r"unknown solver 'xyz'\. Known: euler, heun, rk4, dpmpp_2m, ipndm, deis_2"
    ):
        sample(GaussianDenoiser(), torch.ones(1, 1), [3.0, 0.0], "xyz")
