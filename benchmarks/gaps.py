"""How close the learned schedules come to the limit: train.py over seeds, each training judged on held-out noises.

Example (the table of the README):
    python benchmarks/gaps.py --jobs 2
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Args:
    """Train one configuration or several with several seeds and print the spread of the gap."""

    configs: tuple[str, ...] = (
        "mixture-1d:euler:5",
        "mixture-1d:euler:10",
        "mixture-1d:heun:5",
        "digits:heun:5",
        "digits:heun:7",
    )
    """PROBLEM:SOLVER:K"""
    algorithms: tuple[str, ...] = ("art",)
    """art, sac, ppo"""
    seeds: tuple[int, ...] = tuple(range(10))
    jobs: int = 1
    """Trainings at once."""
    out: Path | None = None
    """Also write every summary into this JSON file."""


def run(config: str, algorithm: str, seed: int) -> dict:
    """One training; its summary."""
    problem, solver, K = config.split(":")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--problem", problem, "--solver", solver, "--num-steps", K, "--seed", str(seed)]
        command = [
            sys.executable,
            "train.py",
            algorithm,
            *options,
            "--run-dir",
            f"{folder}/run",
            "--no-progress",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads((Path(folder) / "run" / "summary.json").read_text())


def main() -> None:
    """Run them all, print a line a configuration."""
    args = tyro.cli(Args, description=__doc__)
    everything = []
    print(f"{'config':22s} {'agent':5s}  n   gap: median   min     max    seconds: median   max   env steps")
    with ThreadPoolExecutor(args.jobs) as pool:
        for config in args.configs:
            for algorithm in args.algorithms:
                found = list(pool.map(lambda s, c=config, a=algorithm: run(c, a, s), args.seeds))
                everything += found
                gaps, seconds = [f["gap"] for f in found], [f["seconds"] for f in found]
                print(
                    f"{config:22s} {algorithm:5s} {len(found):2d}   {median(gaps):11.3f} {min(gaps):7.3f} "
                    f"{max(gaps):7.3f}   {median(seconds):14.0f} {max(seconds):5.0f} {found[0]['env_steps']:11,}",
                    flush=True,
                )
    if args.out is not None:
        args.out.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
