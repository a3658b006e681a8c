"""How a command line of this project ends: bad input is one line on stderr, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run_command(program: str, command: Callable[[], object], interrupted: str = "interrupted") -> int:
    """Run ``command`` and return the exit code: 0, 2 after bad input, 130 after Ctrl-C.

    Args:
        program: what messages begin with.
        command: does the work.
        interrupted: what to say after Ctrl-C.
    """
    try:
        command()
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: {interrupted}", file=sys.stderr)
        return 130
    return 0
