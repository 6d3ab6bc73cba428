"""Processor seconds of a training's step, from its first ones: what a forecast is made of.

Give a clock to a training as its ``on_step`` and catch :class:`ProbeDoneError`::

    clock = StepClock(1, 9)
    with suppress(ProbeDoneError):
        train(..., on_step=clock)
    clock.seconds_a_step * clock.num_steps
"""

import time


class ProbeDoneError(Exception):
    """Enough steps have been timed."""


class StepClock:
    """Times the steps between two of a training, then ends it.

    Args:
        begin: the step after which the clock starts.
        end: the step after which it raises; a shorter training's last one.

    Attributes:
        seconds_a_step: processor seconds; 0 before a step was timed.
        num_steps: of the whole training.

    """

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.start, self.first, self.seconds_a_step, self.num_steps = time.process_time(), 0, 0.0, 0

    def __call__(self, done: int, total: int) -> None:
        """Take note of a step; raise ``ProbeDoneError`` after the last one that is timed."""
        self.num_steps = total
        if done <= self.begin:
            self.start, self.first = time.process_time(), done
            return
        self.seconds_a_step = (time.process_time() - self.start) / (done - self.first)
        if done >= min(self.end, total):
            raise ProbeDoneError
