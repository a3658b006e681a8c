"""Exact denoisers of many Gaussian mixtures at once: each row of a batch has a mixture of its own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


class MixtureRowsDenoiser:
    """Exact denoisers of P Gaussian mixtures; the last entry of a sample is the number of its mixture.

    All covariances are diagonal. A sampler turns with the axes of its data, and so loses nothing if the axes of a
    mixture are those of its covariances. The modes of a mixture share C covariances, N modes each: the densities of
    all of them are then one matrix product, and hundreds of modes cost little. Mixtures of less than d dimensions are
    filled up with coordinates that are always 0.

    A mixture may lie in a subspace of a larger space, as images do. Outside its subspace a sample is noise that
    shrinks along a straight line; all those coordinates are one entry here, which has their norm.

    Args:
        weights: ``[P, C, N]``, not negative; normalised to sum to 1 in each mixture. 0: there is no such mode.
        means: ``[P, C, N, d]``.
        variances: ``[P, C, d]``, positive in the first ``sizes`` coordinates.
        sizes: ``[P]``, dimensions of each mixture; None: d.
        spaces: ``[P]``, dimensions of the space that it lies in; None: as many.

    Attributes:
        shape: ``(d + 2,)``: the mixture's own coordinates, the norm of the others, its number.
        sigma_data: standard deviation of the data, per coordinate of the space, over all mixtures.
        spreads: ``[P]``, that of each mixture.
        given_channels: 1, the number of the mixture.

    Raises:
        ValueError: shapes disagree, or a weight or variance is out of range.
    """

    given_channels = 1

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        variances: ArrayLike,
        sizes: ArrayLike | None = None,
        spaces: ArrayLike | None = None,
    ) -> None:
        w, mu, var = (np.asarray(a, dtype=np.float64) for a in (weights, means, variances))
        if mu.ndim != 4 or w.shape != mu.shape[:3] or var.shape != (*mu.shape[:2], mu.shape[3]):
            raise ValueError(
                f"weights {w.shape}, means {mu.shape} and variances {var.shape} disagree; "
                "expected [P, C, N], [P, C, N, d] and [P, C, d]"
            )
        P, _, _, d = mu.shape
        size = np.full(P, d) if sizes is None else np.asarray(sizes, dtype=np.int64)
        if size.shape != (P,) or size.min() < 1 or size.max() > d:
            raise ValueError(f"sizes = {size.tolist()} must be {P} numbers from 1 to {d}")
        space = size if spaces is None else np.asarray(spaces, dtype=np.int64)
        if space.shape != (P,) or (space < size).any():
            raise ValueError(
                f"spaces = {space.tolist()} must be {P} numbers, at least sizes = {size.tolist()}"
            )
        if not (np.isfinite(w).all() and (w >= 0).all() and (w.sum((1, 2)) > 0).all()):
            raise ValueError("weights must be finite and not negative, and one of each mixture positive")
        real = np.arange(d) < size[:, None]  # [P, d]
        if not (np.isfinite(var).all() and (np.where(real[:, None], var, 1.0) > 0).all()):
            raise ValueError("variances must be finite and positive")
        # Beyond its own dimensions a mixture is a point at 0; the variance there is any number.
        mu, var = mu * real[:, None, None], np.where(real[:, None], var, 1.0)
        w = w / w.sum((1, 2), keepdims=True)
        centre = (w[..., None] * mu).sum((1, 2))
        square = (w[..., None] * (mu - centre[:, None, None]) ** 2).sum((1, 2)) + (
            w.sum(2)[..., None] * var * real[:, None]
        ).sum(1)
        self.shape: tuple[int, ...] = (d + 2,)
        # Mixtures are computed together with others of like size.
        self._widths = sorted({min(d, 2**i) for i in range(1, 32, 2)})
        self.sizes, self.spaces = torch.from_numpy(size), torch.from_numpy(space)
        self.spreads = torch.from_numpy(np.sqrt(square.sum(1) / space))
        self.sigma_data = float(self.spreads.square().mean().sqrt())
        self.real = torch.from_numpy(real).double()
        with np.errstate(divide="ignore"):
            self.log_weights = torch.from_numpy(np.log(w))
        self.variances = torch.from_numpy(var)
        self.means = torch.from_numpy(mu)
        self.weights = torch.from_numpy(w)

    @property
    def num_mixtures(self) -> int:
        """P."""
        return len(self.sizes)

    def which(self, x: Tensor) -> Tensor:
        """The number of the mixture of each row, ``[B, d + 2] -> [B]``."""
        return x.detach()[:, -1].round().long()

    def extent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Dimensions of the space of each row's mixture, and its standard deviation per coordinate, ``[B]`` each."""
        which = self.which(x)
        return self.spaces[which].to(x), self.spreads[which].to(x)

    def project(self, x: Tensor) -> Tensor:
        """White noise ``[B, d + 2]`` as the rows' mixtures have it.

        Coordinates that the mixture does not have are 0, and the norm of those outside its subspace is what noise of
        the row's size has there.
        """
        which = self.which(x)
        outside = torch.sqrt((self.spaces - self.sizes)[which].to(x)) * x[:, :-1].square().mean(1).sqrt()
        return torch.cat([x[:, :-2] * self.real[which].to(x), outside[:, None], x[:, -1:]], 1)

    def relative(self, off: Tensor, x: Tensor) -> Tensor:
        """Differences ``off: [B, d + 1]`` of rows ``x: [B, d + 2]`` in units that make all mixtures count alike.

        The mean square of a row is that over the dimensions of its space, divided by the variance of its data.
        """
        size, spread = self.extent(x)
        return off * (torch.sqrt(off.shape[1] / size) / spread)[:, None]

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``[B, d + 2]`` in, the posterior means and the numbers of the mixtures out."""
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        kinds, place, counts = torch.unique(self.which(x), return_inverse=True, return_counts=True)
        rows = int(counts.max())
        if len(kinds) * rows > 2 * len(x):
            # Rows with few neighbours of their own kind: each by itself.
            kinds, place, rows = self.which(x), torch.arange(len(x), device=x.device), 1
            slot = torch.zeros_like(place)
        else:
            order = torch.argsort(place, stable=True)
            first = torch.cumsum(counts, 0) - counts
            slot = torch.empty_like(place)
            slot[order] = torch.arange(len(x), device=x.device) - first[place[order]]
        flat = place * rows + slot
        shape = (len(kinds), rows, x.shape[1] - 2)
        y = x.new_zeros(len(kinds) * rows, shape[2]).index_put((flat,), x[:, :-2]).reshape(shape)
        s = x.new_ones(len(kinds) * rows).index_put((flat,), levels).reshape(shape[:2])
        # Small mixtures are not filled up to the largest.
        found = torch.zeros_like(y)
        low = 0
        for size in self._widths:
            sizes = self.sizes[kinds]
            own = torch.nonzero((sizes > low) & (sizes <= size))[:, 0]
            if len(own):
                part = self._by_mixture(kinds[own], y[own, :, :size], s[own])
                found = found.index_put((own,), torch.nn.functional.pad(part, (0, shape[2] - size)))
            low = size
        denoised = found.reshape(-1, shape[2])[flat]
        return torch.cat([denoised, torch.zeros_like(x[:, :1]), x[:, -1:]], 1)

    def _by_mixture(self, kinds: Tensor, y: Tensor, s: Tensor) -> Tensor:
        """Posterior means ``[U, n, d]`` of rows ``y: [U, n, d]``, levels ``s: [U, n]``, mixtures ``kinds``."""
        size = y.shape[2]
        means, variances = (
            self.means[kinds, :, :, :size],
            self.variances[kinds, :, :size],
        )  # [U, C, N, d], [U, C, d]
        U, C, N, _ = means.shape
        noise = s.square()[:, None, :, None]
        total = variances[:, :, None] + noise  # [U, C, n, d]
        scaled = y[:, None] / total
        real = self.real[kinds, :size][:, None, None]
        columns = means.transpose(2, 3)
        cross = scaled @ columns - (real / total) @ (columns.square() / 2)  # [U, C, n, N]
        own = ((y[:, None] * scaled + torch.log(total)) * real).sum(3) / 2
        logs = self.log_weights[kinds][:, :, None] + cross - own[..., None]
        flat = torch.softmax(logs.transpose(1, 2).reshape(U, -1, C * N), 2)
        shares = flat.reshape(U, -1, C, N).transpose(1, 2)  # [U, C, n, N]
        keep = variances[:, :, None] / total
        parts = (1 - keep) * (shares @ means) + keep * shares.sum(3, keepdim=True) * y[:, None]
        return parts.sum(1) * real[:, 0]

    def sample(self, which: ArrayLike, seed: int) -> Tensor:
        """A clean sample of each mixture in ``which: [n]``, ``[n, d + 2]``; the first do not depend on ``n``."""
        numbers = torch.as_tensor(np.asarray(which), dtype=torch.int64)
        rng = np.random.default_rng([seed, 0x5A3])
        uniform = torch.from_numpy(rng.random(len(numbers)))
        noise = torch.from_numpy(
            np.random.default_rng([seed, 0x5A4]).standard_normal((len(numbers), self.shape[0] - 2))
        )
        edges = self.weights.cpu()[numbers].flatten(1).cumsum(1)
        mode = (uniform[:, None] > edges).sum(1).clamp_max(edges.shape[1] - 1)
        N = self.weights.shape[2]
        kind = torch.div(mode, N, rounding_mode="floor")
        means = self.means.cpu()[numbers, kind, mode % N]
        spread = torch.sqrt(self.variances.cpu()[numbers, kind]) * self.real.cpu()[numbers]
        outside = torch.zeros(len(numbers), 1, dtype=torch.float64)
        return torch.cat([means + spread * noise, outside, numbers[:, None].double()], 1)

    def to(self, device: torch.device | str) -> MixtureRowsDenoiser:
        """Move the parameters to a device."""
        for name in ("sizes", "spaces", "spreads", "real", "log_weights", "variances", "means", "weights"):
            setattr(self, name, getattr(self, name).to(device))
        return self
