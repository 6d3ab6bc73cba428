"""Past counts of a request by side: an item's are looked up once a period, a user's once a request."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphrec.serving.counts import PastCounts, Program
from graphrec.serving.day_folder import DayFolder


@dataclass(frozen=True, eq=False)
class Section:
    """The past counts that belong to one side: how to compute them, and their columns when scaled."""

    program: Program
    columns: Tensor


class Sections:
    """Past counts by side: what the item decides, what user and context decide, what both decide."""

    def __init__(self, day: DayFolder) -> None:
        counts, scaler = day.counts, day.scaler
        assert counts is not None
        assert scaler is not None
        self.scaler = scaler
        plan = counts.plan
        of_item = {"item", *plan.spec.item_columns}
        sides: dict[str, list[int]] = {"item": [], "user": [], "both": []}
        for place, name in enumerate(plan.spec.features):
            key = set(plan.spec.key_columns(name))
            side = "user" if not key & of_item else "item" if key <= of_item else "both"
            sides[side].append(place)
        sides["all"] = list(range(len(plan.spec.features)))
        self.of = {
            side: Section(
                plan.program(np.array(features, np.int64)),
                torch.from_numpy(scaler.columns(np.array(features, np.int64))),
            )
            for side, features in sides.items()
        }

    def compute(
        self,
        side: str,
        counts: PastCounts,
        user: np.ndarray,
        item: np.ndarray,
        columns: np.ndarray,
        as_of: int | np.ndarray,
    ) -> Tensor:
        """Return the scaled counts of a side, (rows, its columns), as of one time or a time for each row."""
        program = self.of[side].program
        times = np.full(len(user), as_of, np.int64)
        raw = counts.compute(program, user, item, columns, times)
        return torch.from_numpy(self.scaler.transform(raw, program.features))
