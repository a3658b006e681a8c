"""FID through torchmetrics, on a feature extractor made here."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.fid import InceptionFID
from art_env.evaluation.metrics import frechet_distance
from art_env.problems.library import make_problem
from art_env.schedules.registry import make_schedule

pytest.importorskip("torchmetrics")


class Means(nn.Module):
    """Four features: the means of the quarters of the first channel."""

    num_features = 4

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return nn.functional.adaptive_avg_pool2d(images[:, :1].float(), 2).flatten(1)


def test_against_our_own_formula():
    gen = torch.Generator().manual_seed(0)
    a = torch.rand(300, 1, 8, 8, generator=gen, dtype=torch.float64) * 2 - 1
    b = (torch.rand(200, 1, 8, 8, generator=gen, dtype=torch.float64) * 2 - 1) * 0.8
    fid = InceptionFID(extractor=Means(), batch_size=64)
    features = [Means()(((x + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)) for x in (a, b)]
    assert fid(a, b) == pytest.approx(frechet_distance(*features), rel=1e-4)
    assert fid(a, a) == pytest.approx(0, abs=1e-3)


def test_as_a_metric_of_the_table():
    problem = make_problem("photos")
    evaluator = Evaluator(
        problem,
        "euler",
        (0,),
        num_images=40,
        num_noises=4,
        metrics=("fid",),
        fid=InceptionFID(extractor=Means()),
    )
    rows = {r.metric: r.mean for r in evaluator.rows(make_schedule("edm", problem, 2, "euler"))}
    assert set(rows) == {"rmse", "fid"}
    assert rows["fid"] > 10 * evaluator.floor()[0].mean


@pytest.mark.parametrize(
    ("shape", "message"), [((5, 2, 8, 8), r"\(5, 2, 8, 8\)"), ((1, 3, 8, 8), "N above 1"), ((4, 64), "shape")]
)
def test_bad_images(shape, message):
    fid = InceptionFID(extractor=Means())
    with pytest.raises(ValueError, match=message):
        fid(torch.zeros(shape), torch.zeros(4, 3, 8, 8))
    with pytest.raises(ValueError, match="not finite"):
        fid(torch.full((4, 3, 8, 8), float("nan")), torch.zeros(4, 3, 8, 8))


def test_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no Inception weights"):
        InceptionFID(weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"metric of 'photos' 'fidd'"):
        Evaluator(make_problem("photos"), "euler", (0,), num_images=40, metrics=("fidd",))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"art-rl\[fid\]"):
        InceptionFID()
