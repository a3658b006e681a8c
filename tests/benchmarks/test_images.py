"""The picture of the README."""

from __future__ import annotations

from benchmarks import headline, images
from benchmarks.records import title


def test_the_picture_shows_the_rivals_of_the_table(tmp_path, monkeypatch) -> None:
    rows: dict = {}
    real = images.samples_figure
    monkeypatch.setattr(images, "samples_figure", lambda sets: rows.update(sets) or real(sets))
    images.picture(images.Args(page=tmp_path))
    assert (tmp_path / "docs" / "samples.png").stat().st_size > 10_000
    first, second, *others = rows
    assert first == "exact"
    assert second.startswith("ART-RL\nlearned_2m, 5 evaluations, RMSE 0.05")
    assert {text.partition("\n")[0] for text in others} == {title(spec) for spec, _ in headline.COPIED}
    assert all(x.shape == (16, 1, 8, 8) for x in rows.values())
