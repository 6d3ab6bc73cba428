"""Peak memory of one piece of work after another, in one process."""

import pytest
import torch

from experiments.peak_memory import RESET, PeakMemory

pytestmark = pytest.mark.skipif(not RESET.exists(), reason="the system does not tell")
CPU = torch.device("cpu")


def work(mib):
    return int(torch.ones(mib << 20, dtype=torch.uint8).max())


def measured(mib):
    memory = PeakMemory(CPU)
    work(mib)
    return memory.mib()


def test_each_work_has_a_peak_of_its_own():
    first, small, again = measured(400), measured(50), measured(400)
    assert first == pytest.approx(400, abs=60), "what was freed counts"
    assert small == pytest.approx(50, abs=30), "the peak of earlier work does not"
    assert again == pytest.approx(400, abs=60), "memory that earlier work has freed is not free of charge"


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.peak_memory.RESET", tmp_path / "none" / "clear_refs")
    assert PeakMemory(CPU).mib() is None
