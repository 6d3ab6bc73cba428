"""The most memory that a piece of work took, above what the process held before it; on Linux.

Work of one process after another, unlike the benchmarks' cases, which have a process each
(``experiments.benchmarks.measured_rows``).
"""

import ctypes
from pathlib import Path

import torch

MIB = 1 << 20
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel takes as: the peak is what is resident now


class PeakMemory:
    """Measures from its making on.

    Args:
        device: where the work's tensors lie. A GPU's own memory is measured, else the process's resident set.

    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = self._begin()

    def forget(self) -> None:
        """Leave out the peak so far; what the work holds still counts."""
        self._begin()

    def mib(self) -> float | None:
        """Return the peak in MiB; None where the system does not tell."""
        if self._before is None:
            return None
        now = (
            torch.cuda.max_memory_allocated(self.device) / MIB
            if self.device.type == "cuda"
            else _status_mib("VmHWM")
        )
        return None if now is None else max(now - self._before, 0.0)

    def _begin(self) -> float | None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device) / MIB
        try:
            # what earlier work freed is given back, or this work would take it unseen
            ctypes.CDLL(None).malloc_trim(0)
            RESET.write_text(RESET_PEAK)
        except (OSError, AttributeError):
            return None
        return _status_mib("VmRSS")


def _status_mib(name: str) -> float | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return None
