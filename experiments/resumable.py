"""A command that goes on where it stopped: its errors and interruptions as words and an exit status."""

import sys
from collections.abc import Callable


def run_resumable(run: Callable[[], object]) -> int:
    """Run a command whose finished parts are kept, and return the exit status.

    A wrong option or bad data gives 2, an interruption from the keyboard 130, each with a line that says so.
    """
    try:
        run()
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
