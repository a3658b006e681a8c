"""The probability-flow ODE itself: velocity, curvature, and exact reference trajectories."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from art_env.diffusion.denoiser import Denoiser, append_dims


def velocity(denoiser: Denoiser, x: Tensor, sigma: Tensor | float) -> Tensor:
    """``F = (D(x; sigma) - x) / sigma = -dx/dsigma``: the drift in the sampler's own direction of time.

    ``x: [B, *shape]``, ``sigma``: scalar or ``[B]``, above 0. (Huang et al. 2026, f = 0 and g = sqrt(2t).)
    """
    return (denoiser(x, sigma) - x) / append_dims(sigma, x)


def curvature(denoiser: Denoiser, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    """``(F, Q)`` with ``Q = d^2 x / dtau^2`` along the exact trajectory, by one Jacobian-vector product.

    Q is the derivative of ``(x, sigma) -> F`` along the tangent ``(F, -1)``; one Euler step of length h has
    the error ``h^2 / 2 * Q``. Both are ``[B, *shape]``. Costs one plain and one forward-mode evaluation.
    """
    _load_forward_mode()
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0]).contiguous()
    F = velocity(denoiser, x, levels)
    # Dual numbers by hand: torch.func.jvp does the same with twice the overhead on a single row.
    with forward_ad.dual_level():
        dual_x = forward_ad.make_dual(x, F.detach())
        dual_sigma = forward_ad.make_dual(levels, -torch.ones_like(levels))
        Q = forward_ad.unpack_dual(velocity(denoiser, dual_x, dual_sigma)).tangent
    return F, torch.zeros_like(F) if Q is None else Q


@lru_cache(maxsize=1)
def _load_forward_mode() -> None:
    """torch loads its forward-mode rules at first use, with a deprecation warning of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.ones(1))


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row: ``[B, *shape] -> [B]``."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


class ReferenceFlow:
    """Exact trajectories of a set of initial noises, kept so that no network is needed to read them.

    Integrated once with RK4 in log sigma on even ticks of log sigma; ``x`` and ``dx/dlog sigma`` are kept at
    the knots, cubic Hermite in between. If the flow ends at 0, the last knot above it is ``sigma_floor`` and
    a single Euler step goes on to 0 (EDM's convention; the network is not trained below).

    Args:
        sigmas: ``[M]``, descending, all above 0.
        x: ``[M, N, *shape]``, states at the knots.
        slope: ``[M, N, *shape]``, ``dx/dlog sigma = x - D(x; sigma)`` at the knots.
        sigma_end: last noise level: ``sigmas[-1]``, or 0.
    """

    def __init__(self, sigmas: Tensor, x: Tensor, slope: Tensor, sigma_end: float) -> None:
        self.sigmas, self.x, self.slope = sigmas, x, slope
        self.sigma_end = float(sigma_end)
        self._floor = float(sigmas[-1])
        self._log = torch.log(sigmas)
        self._widths = self._log.diff()
        self._inner = -self._log[1:-1]  # ascending, as searchsorted wants it
        self._column = (-1, *[1] * (x.ndim - 2))
        self.x_end = x[-1] - slope[-1] if self.sigma_end == 0 else x[-1]

    @property
    def num_noises(self) -> int:
        """How many trajectories there are."""
        return self.x.shape[1]

    @property
    def evaluations(self) -> int:
        """Rows times evaluations of the denoiser that the integration took."""
        return self.num_noises * (4 * (len(self.sigmas) - 1) + 1)

    @property
    def start(self) -> Tensor:
        """``[N, *shape]``, the initial noises."""
        return self.x[0]

    def first(self, n: int) -> ReferenceFlow:
        """The first ``n`` trajectories (all, if there are fewer), without copying."""
        if n >= self.num_noises:
            return self
        return self.pick(slice(n))

    def pick(self, rows: Tensor | slice) -> ReferenceFlow:
        """Some of the trajectories; those of a slice are not copied."""
        return ReferenceFlow(self.sigmas, self.x[:, rows], self.slope[:, rows], self.sigma_end)

    @classmethod
    @torch.no_grad()
    def integrate(
        cls,
        denoiser: Denoiser,
        x: Tensor,
        sigma_max: float,
        sigma_floor: float,
        sigma_end: float,
        num_knots: int = 257,
        batch_size: int = 4096,
    ) -> ReferenceFlow:
        """Integrate ``x: [N, *shape]`` from ``sigma_max``; ``4 (num_knots - 1) + 1`` evaluations a row.

        Raises:
            ValueError: fewer than two knots, or a range that does not descend.
        """
        if num_knots < 2:
            raise ValueError(f"num_knots = {num_knots} must be at least 2")
        if not 0 < sigma_floor < sigma_max:
            raise ValueError(
                f"sigma_floor = {sigma_floor:g} must lie between 0 and sigma_max = {sigma_max:g}"
            )
        logs = torch.linspace(
            math.log(sigma_max), math.log(sigma_floor), num_knots, dtype=x.dtype, device=x.device
        )
        sigmas = torch.exp(logs)
        sigmas[0], sigmas[-1] = sigma_max, sigma_floor
        h = float(logs[1] - logs[0])
        states, slopes = [], []
        for chunk in x.split(batch_size):
            xs, ds = [], []
            for i in range(num_knots):
                k1 = chunk - denoiser(chunk, sigmas[i])
                xs.append(chunk)
                ds.append(k1)
                if i == num_knots - 1:
                    break
                mid = torch.exp((logs[i] + logs[i + 1]) / 2)
                y = chunk + h / 2 * k1
                k2 = y - denoiser(y, mid)
                y = chunk + h / 2 * k2
                k3 = y - denoiser(y, mid)
                y = chunk + h * k3
                k4 = y - denoiser(y, sigmas[i + 1])
                chunk = chunk + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            states.append(torch.stack(xs))
            slopes.append(torch.stack(ds))
        return cls(sigmas, torch.cat(states, 1), torch.cat(slopes, 1), sigma_end)

    def at(self, sigma: Tensor | float, index: Tensor | None = None) -> Tensor:
        """Exact states at any noise level, ``[B, *shape]``.

        Args:
            sigma: scalar or ``[B]``, between ``sigma_end`` and ``sigma_max``.
            index: ``[B]``, which trajectories; all of them if None.
        """
        rows = torch.arange(self.num_noises, device=self.x.device) if index is None else index
        s = torch.as_tensor(sigma, dtype=self.x.dtype, device=self.x.device).expand(len(rows))
        log_s = torch.log(s.clamp_min(self._floor))
        left = torch.searchsorted(self._inner, -log_s)
        right, width = left + 1, self._widths.take(left)
        u = ((log_s - self._log.take(left)) / width).reshape(self._column)
        w = width.reshape(self._column)
        x0, x1 = self.x[left, rows], self.x[right, rows]
        m0, m1 = self.slope[left, rows] * w, self.slope[right, rows] * w
        # The cubic with these ends and slopes, by Horner's rule.
        rise = x1 - x0
        cubic = torch.sub(m0 + m1, rise, alpha=2)
        square = rise - m0 - cubic
        out = torch.addcmul(x0, u, torch.addcmul(m0, u, torch.addcmul(square, u, cubic)))
        if self.sigma_end == 0:
            below = s < self._floor
            if bool(below.any()):
                # Straight line from the last knot to 0: the Euler step that ends the reference too.
                part = (s / self._floor - 1).reshape(self._column)
                line = self.x[-1, rows] + self.slope[-1, rows] * part
                out = torch.where(below.reshape(self._column), line, out)
        return out

    def curvature_norms(self) -> Tensor:
        """``|Q|`` at the knots, ``[M, N]``, by central differences of the stored slopes (no evaluations).

        With ``g = dx/dlog sigma = x - D``: ``sigma^2 Q = dg/dlog sigma - g = -dD/dlog sigma``. D is what is
        differenced: at large sigma the two terms in g are equal but for the last few digits.
        """
        dD = torch.gradient(self.x - self.slope, spacing=(self._log,), dim=0, edge_order=2)[0]
        Q = -dD / self.sigmas.reshape(-1, *([1] * (self.x.ndim - 1))) ** 2
        return Q.flatten(2).norm(dim=2)
