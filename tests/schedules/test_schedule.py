"""Schedule: what it refuses, what it keeps, and what resampling costs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import art_env.schedules.schedule as schedule_module
from art_env._util.files import atomic_path
from art_env.diffusion import GaussianDenoiser, sample
from art_env.schedules import Schedule, arctan, edm, log_snr
from art_env.schedules.schedule import check_num_steps, from_sigmas

torch.set_num_threads(1)


def _w2(sigmas: np.ndarray) -> float:
    """Exact W2 of Euler on gaussian-1d, started from N(0, 10)."""
    x = torch.tensor([[np.sqrt(10.0)]], dtype=torch.float64)
    return abs(1.0 - float(sample(GaussianDenoiser(), x, sigmas, "euler")))


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 2.0, 3.0], r"sigmas\[1\] = 2 is above sigmas\[0\] = 1"),
        ([3.0, 2.0, 2.5], r"sigmas\[2\] = 2.5 is above sigmas\[1\] = 2"),
        ([3.0, 1.0, 1.0, 0.0], r"sigmas\[2\] = 1 repeats sigmas\[1\] = 1"),
        ([3.0, 0.0, 0.0], r"sigmas\[2\] = 0 repeats"),
        ([3.0, float("nan"), 0.0], r"sigmas\[1\] = nan is not finite"),
        ([float("inf"), 1.0, 0.0], r"sigmas\[0\] = inf is not finite"),
        ([3.0, None, 0.0], r"sigmas\[1\] = nan is not finite"),
        ([3.0, 1.0, -0.5], r"sigmas\[2\] = -0.5 is negative"),
        ([3.0], r"shape \(1,\).*at least two"),
        ([], r"shape \(0,\).*at least two"),
        (3.0, r"shape \(\).*at least two"),
        ([[3.0, 1.0], [1.0, 0.0]], r"shape \(2, 2\)"),
        (["a", "b"], r"sigmas\[0\] = 'a' is not a number"),
        (["3", "1"], r"sigmas\[0\] = '3' is not a number"),
        ([3.0, True, 0.0], r"sigmas\[1\] = True is not a number"),
        ([3.0, np.False_], r"sigmas\[1\] = (np.)?False_? is not a number"),
        (np.array([True, False]), "not a list of numbers"),
        (np.array(["3", "1"]), "not a list of numbers"),
        ([[3.0, 1.0], [0.0]], "not a list of numbers"),
        ([10**400, 1.0], "not a list of numbers"),
        ([3.0 + 1j, 1.0], "not a list of numbers"),
    ],
)
def test_bad_lists_are_refused_by_index_and_value(sigmas, message):
    with pytest.raises(ValueError, match=message):
        Schedule(sigmas)


def test_is_immutable():
    source = np.array([3.0, 1.0, 0.0])
    meta = {"seed": 1}
    schedule = Schedule(source, "mine", meta)
    source[1], meta["seed"] = 2.0, 2
    assert schedule.sigmas.tolist() == [3.0, 1.0, 0.0]
    assert schedule.meta["seed"] == 1
    with pytest.raises(ValueError, match="read-only"):
        schedule.sigmas[1] = 2.0
    with pytest.raises(AttributeError):
        schedule.sigmas = np.array([2.0, 1.0])
    with pytest.raises(AttributeError):
        schedule.name = "other"


def test_what_it_says_about_itself():
    zero, above = Schedule([3.0, 1.0, 0.0]), Schedule([3.0, 1.0, 0.25])
    assert (zero.num_steps, len(zero), zero.sigma_max, zero.sigma_end, zero.final_sigmas_type) == (
        2,
        3,
        3.0,
        0.0,
        "zero",
    )
    assert (above.sigma_end, above.final_sigmas_type) == (0.25, "sigma_min")
    assert zero.sigmas.dtype == np.float64
    assert zero == Schedule((3, 1, 0), "another name")
    assert hash(zero) == hash(Schedule((3, 1, 0)))
    assert zero != above
    assert zero != [3.0, 1.0, 0.0]


def test_json_round_trip_is_exact(tmp_path):
    rng = np.random.default_rng(0)
    sigmas = np.append(np.sort(rng.lognormal(0, 4, 200))[::-1], 0.0)
    schedule = from_sigmas(sigmas, "näme", problem="mixture-1d", seed=3, nested={"a": [1, 2.5, None]})
    path = tmp_path / "schedule.json"
    schedule.save(path)
    back = Schedule.load(path)
    assert back.sigmas.tobytes() == sigmas.tobytes()
    assert (back.name, back.meta) == (schedule.name, schedule.meta)
    assert Schedule.from_json(schedule.to_json()) == schedule
    body = json.loads(path.read_text(encoding="utf-8"))
    assert (body["format"], body["version"], body["num_steps"]) == ("art-schedule", 1, 200)


def _edited(**changes):
    body = {**json.loads(edm(3, 0.002, 80.0).to_json()), **changes}
    return json.dumps({k: v for k, v in body.items() if v is not ...})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigmas: 3 2 1", "not valid JSON"),
        ("", "not valid JSON"),
        (edm(5, 0.002, 80.0).to_json()[:80], "truncated"),
        ("[3, 1, 0]", '"format": "art-schedule"'),
        (_edited(format="other"), '"format": "art-schedule"'),
        (_edited(format=...), '"format": "art-schedule"'),
        (_edited(version=3), "version 3 is not 1"),
        (_edited(version=...), "version None is not 1"),
        (_edited(sigmas=...), 'no list "sigmas"'),
        (_edited(sigmas="3 1 0"), 'no list "sigmas"'),
        (_edited(sigmas=[3, 1, 2, 0]), r"sigmas\[2\] = 2 is above"),
        (_edited(sigmas=[3, float("nan"), 1, 0]), r"sigmas\[1\] = nan"),
        (_edited(num_steps=7), "num_steps = 7 but sigmas has 4 entries"),
        (_edited(num_steps=True), "num_steps = True but sigmas has 4 entries"),
        (_edited(num_steps=3.0), "num_steps = 3.0 but sigmas has 4 entries"),
        (_edited(meta=[1]), r"meta = \[1\] must be a mapping"),
        (_edited(meta={"rmse": float("nan")}), "meta of schedule .* is not JSON"),
        (_edited(name=5), "name = 5 must be a text"),
        (_edited(version=True), "version True is not 1"),
        (_edited(version=1.0), "version 1.0 is not 1"),
        (_edited(sigmas=["3", "1", "0.5", "0"]), r"sigmas\[0\] = '3' is not a number"),
        (_edited(sigmas=[3, True, 0.5, 0]), r"sigmas\[1\] = True is not a number"),
        (_edited(sigmas=[3, 1, 0.5, float("inf")]), r"sigmas\[3\] = inf is not finite"),
        (
            _edited(final_sigmas_type="sigma_min"),
            'final_sigmas_type = .* but sigmas ends at 0, which is "zero"',
        ),
        (_edited(terminal="sigma_min"), 'terminal = .* but sigmas ends at 0, which is "zero"'),
        (_edited(space="vp"), "unknown space 'vp'"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_bad_files_are_refused_and_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_json(text)
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"bad.json: .*{message}"):
        Schedule.load(path)


def test_the_space_of_a_file():
    schedule = Schedule([3.0, 1.0, 0.0], space="flow")
    assert Schedule.from_json(schedule.to_json()).space == "flow"
    assert schedule.resample(5).space == schedule.resample(4, keep_zero=True).space == "flow"
    clock = Schedule([80.0, 5.0, 0.5, 0.0], space="flow")
    assert Schedule.universal(5, clock=clock).space == "flow"
    # Older files do not say it.
    assert Schedule.from_json(_edited(space=...)).space == "ve"


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Schedule.load(tmp_path / "nowhere.json")
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"binary\.json: not a text file.*schedule\.json of a run"):
        Schedule.load(path)
    with pytest.raises(OSError, match="no-such-folder"):
        edm(3, 0.002, 80.0).save(tmp_path / "no-such-folder" / "s.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.json"
    old = edm(3, 0.002, 80.0)
    old.save(path)

    def crash():
        with atomic_path(path) as temporary:
            temporary.write_text("half of a")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        crash()
    assert Schedule.load(path) == old
    with pytest.raises(ValueError, match="not JSON"):
        Schedule([3.0, 1.0], "bad", {"not json": object()}).save(path)
    assert Schedule.load(path) == old

    def replace(*_):
        raise OSError("no space")

    monkeypatch.setattr(schedule_module.os, "replace", replace)
    with pytest.raises(OSError, match="no space"):
        edm(4, 0.002, 80.0).save(path)
    monkeypatch.undo()
    assert Schedule.load(path) == old
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]
    edm(4, 0.002, 80.0).save(path)
    assert Schedule.load(path).num_steps == 4


def test_resampling_keeps_the_clock():
    fine = arctan(20, 0.0, 3.0).resample(100)
    assert fine.num_steps == 100
    assert fine.meta["resampled_from"] == 20
    assert _w2(fine.sigmas) == pytest.approx(_w2(arctan(100, 0.0, 3.0).sigmas), rel=0.01)
    # Every fifth node is a node of the original.
    np.testing.assert_allclose(fine.sigmas[::5], arctan(20, 0.0, 3.0).sigmas, rtol=1e-12, atol=1e-15)
    coarse = edm(40, 0.002, 80.0, final_sigmas_type="sigma_min").resample(10)
    np.testing.assert_allclose(
        coarse.sigmas, edm(10, 0.002, 80.0, final_sigmas_type="sigma_min").sigmas, rtol=1e-9
    )
    assert (coarse.sigmas[0], coarse.sigmas[-1]) == (80.0, 0.002)


@pytest.mark.parametrize("K", [1, 2, 3, 7])
@pytest.mark.parametrize("new", [1, 2, 5, 64])
@pytest.mark.parametrize("final_sigmas_type", ["zero", "sigma_min"])
def test_resampling_at_any_size_is_a_schedule_with_the_same_ends(K, new, final_sigmas_type):
    source = (
        edm(K, 0.002, 80.0, final_sigmas_type=final_sigmas_type)
        if K > 1 or final_sigmas_type == "zero"
        else Schedule([80.0, 0.002])
    )
    out = source.resample(new)
    assert out.num_steps == new
    assert (out.sigma_max, out.sigma_end) == (source.sigma_max, source.sigma_end)


def test_keep_zero_resamples_the_levels_above_zero():
    """EDM's convention: the K levels log-linearly, then 0."""
    source = edm(8, 0.002, 80.0)
    out = source.resample(20, keep_zero=True)
    logs = np.interp(np.linspace(0, 1, 20), np.linspace(0, 1, 8), np.log(source.sigmas[:-1]))
    np.testing.assert_allclose(out.sigmas[:-1], np.exp(logs), rtol=1e-12)
    assert out.sigmas[0] == 80.0
    assert out.sigmas[-1] == 0.0
    assert out.sigmas[-2] == pytest.approx(0.002, rel=1e-12)
    # Log-SNR is a straight line there, so its transfer is itself.
    np.testing.assert_allclose(
        log_snr(5, 0.002, 80.0).resample(12, keep_zero=True).sigmas,
        log_snr(12, 0.002, 80.0).sigmas,
        rtol=1e-12,
    )
    assert source.resample(1, keep_zero=True).sigmas.tolist() == [80.0, 0.0]


def test_resample_errors():
    with pytest.raises(ValueError, match=r"ends at 0\.002.*keep_zero=False"):
        edm(8, 0.002, 80.0, final_sigmas_type="sigma_min").resample(4, keep_zero=True)
    with pytest.raises(ValueError, match="ends at 0"):
        edm(8, 0.002, 80.0, final_sigmas_type="sigma_min").resample(8, keep_zero=True)
    with pytest.raises(ValueError, match="single step"):
        Schedule([80.0, 0.0]).resample(4, keep_zero=True)
    for bad in (0, -3, 2.5, True, "5", None):
        with pytest.raises(ValueError, match=r"num_steps = .* whole number of at least 1"):
            edm(8, 0.002, 80.0).resample(bad)


def test_check_num_steps_takes_numpy_integers():
    assert check_num_steps(np.int64(4)) == 4
    assert type(check_num_steps(np.int64(4))) is int


def test_theta_is_the_speed_on_the_uniform_clock():
    schedule = Schedule([4.0, 1.0, 0.0])
    assert schedule.theta().tolist() == [1.5, 0.5]
    for s in (edm(18, 0.002, 80.0), arctan(7, 0.0, 3.0), log_snr(9, 0.1, 5.0, final_sigmas_type="sigma_min")):
        assert s.theta().mean() == pytest.approx(1.0, abs=1e-12)
        assert (s.theta() > 0).all()
        walked = np.cumsum(s.theta()) * (s.sigma_max - s.sigma_end) / s.num_steps
        np.testing.assert_allclose(s.sigma_max - walked, s.sigmas[1:], atol=1e-12 * s.sigma_max)


def test_check_range():
    schedule = edm(5, 0.002, 80.0, final_sigmas_type="sigma_min")
    schedule.check_range(80.0, 0.002)
    schedule.check_range(80.04, 0.002)
    with pytest.raises(ValueError, match=r"starts at sigma=80.*sigma_max=3"):
        schedule.check_range(3.0, 0.002)
    with pytest.raises(ValueError, match=r"ends at sigma=0\.002.*sigma=0;.*final_sigmas_type"):
        schedule.check_range(80.0, 0.0)
    with pytest.raises(ValueError, match=r"ends at sigma=0, .*0\.002"):
        edm(5, 0.002, 80.0).check_range(80.0, 0.002)


def test_files_carry_the_usual_permissions(tmp_path):
    mine, plain = tmp_path / "s.json", tmp_path / "plain"
    edm(3, 0.002, 80.0).save(mine)
    Path(plain).touch()
    assert mine.stat().st_mode == plain.stat().st_mode


def test_a_file_of_an_older_release_loads():
    """Its key for the end had another name; the list of noise levels says it all."""
    text = edm(3, 0.002, 80.0).to_json().replace("final_sigmas_type", "terminal")
    assert Schedule.from_json(text) == edm(3, 0.002, 80.0)


def test_a_schedule_with_weights_is_kept_exactly(tmp_path):
    weights = [[0.0, 0.0], [1 / 3, 0.0], [2.5, -1.25]]
    schedule = Schedule([80.0, 3.0, 0.5, 0.0], "mine", {"seed": 1}, weights)
    assert schedule.solver == "learned_3m"
    assert json.loads(schedule.to_json())["version"] == 2
    schedule.save(tmp_path / "s.json")
    again = Schedule.load(tmp_path / "s.json")
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again.weights.tolist() == weights
    plain = Schedule(schedule.sigmas)
    assert plain != schedule
    assert plain.solver is None
    assert json.loads(plain.to_json())["version"] == 1
    with pytest.raises(ValueError, match="read-only"):
        again.weights[0] = 1.0
    with pytest.raises(ValueError, match="has weights, which belong to its 3 steps"):
        schedule.resample(5)
    assert schedule.resample(3) is schedule


def test_weights_for_all_earlier_slopes():
    schedule = Schedule([80.0, 9.0, 3.0, 1.0, 0.5, 0.0], weights=np.full((5, 4), 0.25))
    assert schedule.solver == "learned_5m"
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[0.0], [0.5]], r"weights has shape \(2, 1\); give 1 weight or more for each of 3 steps"),
        ([0.0, 0.5, 0.5], r"weights has shape \(3,\)"),
        ([[]] * 3, r"weights has shape \(3, 0\)"),
        ([[0.0], [math.nan], [0.5]], r"weights\[1\]\[0\] = nan is not finite"),
        ([["a"], [0.5], [0.5]], r"weights\[0\]\[0\] = 'a' is not a number"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        Schedule([80.0, 3.0, 0.5, 0.0], weights=weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version 1 with"),
        ({"weights": None}, "version 2 with"),
        (
            {"solver": "learned_2m"},
            "solver = 'learned_2m', but weights of this shape are those of 'learned_3m'",
        ),
        ({"version": 3}, "version 3 is not 1 or 2"),
    ],
)
def test_a_file_whose_weights_do_not_fit(change, message):
    schedule = Schedule([80.0, 3.0, 0.0], "mine", {}, [[0.0, 0.0], [0.5, 0.0]])
    body = json.loads(schedule.to_json()) | change
    with pytest.raises(ValueError, match=message):
        Schedule.from_json(json.dumps(body))
