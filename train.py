"""Learn a noise schedule: train an agent, distil it into a list of sigmas, compare it with the others.

Examples:
    python train.py
    python train.py --problem mixture-1d --solver euler --num-steps 10
    python train.py --problem mixture-1d --num-steps 3 5 10
    python train.py --problem mixture-1d --features log_velocity log_curvature rms turn
    python train.py search --problem mixture-1d --num-steps 10
    python train.py sac --problem mixture-1d
    python train.py art-paper
    python train.py --workers 2
    python train.py --resume runs/digits__art__0__2026-01-31_12-00-00
    python train.py art --help
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any

if __name__ == "__main__":  # while the imports below take their seconds, Ctrl-C ends without a traceback
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: os._exit(128 + number))

import tyro

from agents.training import COMMANDS, Settings, train
from agents.training.report import report, write
from art_env._util import cli
from art_env._util.names import check_name

# Options that may stand beside --resume: the run has all others already.
BESIDE_RESUME = (
    *("--resume", "--trust-pickle", "--no-trust-pickle", "--progress", "--no-progress"),
    *("--workers", "--ray-address", "--worker-gpus"),
)


def run(settings: Settings) -> None:
    """For each number of steps: train, print the table, write the run folder."""
    for one in settings.one_by_one():
        began = time.time()
        result = train(one, say=partial(print, flush=True))
        try:
            print(report(result))
            write(result)
        finally:
            result.run.close()
        print(f"all artefacts in {result.run.folder} after {time.time() - began:.0f} s")


def parse(argv: list[str]) -> Settings:
    """Settings from the command line; the algorithm may be left out.

    Raises:
        ValueError: a bad setting, or one beside ``--resume``, where the run's own are used.
    """
    options = [arg.partition("=")[0].replace("_", "-") for arg in argv if arg.startswith("-")]
    if "--resume" in options:
        algorithm = argv[:1] if not argv[0].startswith("-") else []
        others = [*algorithm, *(o for o in options if o not in BESIDE_RESUME)]
        if others and not {"-h", "--help"} & {*options}:
            raise ValueError(
                f"{', '.join(others)}: the run has its own settings; leave out all but --resume FOLDER"
            )
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = ["art", *argv]
    elif not argv[0].startswith("-"):
        check_name("algorithm", argv[0], COMMANDS)
    kinds: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()]
    settings: Settings = cli.parse(reduce(or_, kinds), argv, __doc__)
    return settings


def main() -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    interrupted = "interrupted; go on with --resume and the run folder"
    return cli.run_command("train.py", lambda: run(parse(sys.argv[1:])), interrupted)


if __name__ == "__main__":
    sys.exit(main())
