"""Until when a model's weights have seen data: it travels with them and is checked before labels come."""

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Fitted(Protocol):
    """What was fitted on events, and knows until when: a vocabulary, interests, pre-trained weights."""

    @property
    def fit_until(self) -> int | None:
        """No event at or after this time was seen; None: not fitted, or on tables that never change."""

    def check_before(self, label_start: int) -> None:
        """Raise if the fit may have seen anything at or after the first label."""


def latest_fit(parts: Iterable[Fitted]) -> int | None:
    """Return the latest ``fit_until`` of all parts; None where no part has one."""
    return max((part.fit_until for part in parts if part.fit_until is not None), default=None)


class FittedUntil(nn.Module):
    """A module that knows until when it was fitted.

    Attributes:
        fit_until: no event at or after this time has been seen in training; ``None``: not trained. A part of
            the state dict; weights fitted until another time are refused.
        noun: what messages call it.

    """

    noun: ClassVar[str] = "model"

    def __init__(self) -> None:
        super().__init__()
        self.fit_until: int | None = None

    def get_extra_state(self) -> dict[str, int | None]:
        """Return what the state dict holds beside weights."""
        return {"fit_until": self.fit_until}

    def set_extra_state(self, state: dict[str, int | None]) -> None:
        """Take over ``fit_until``.

        Raises:
            ValueError: this module was, or is being, fitted until another time.

        """
        if self.fit_until not in (None, state["fit_until"]):
            raise ValueError(
                f"the weights were fitted on data until {state['fit_until']}, this {self.noun} until "
                f"{self.fit_until}: delete the checkpoint, or ask for the time that it was made with"
            )
        self.fit_until = state["fit_until"]

    def check_before(self, label_start: int) -> None:
        """Raise if training may have seen anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        if self.fit_until is not None and self.fit_until > label_start:
            raise ValueError(
                f"the {self.noun} was pre-trained on data until {self.fit_until}, labels begin at "
                f"{label_start}: pre-train it on what was known before"
            )


def move_fit_until(model: Any, fit_until: int) -> None:
    """Note in a model with a ``fit_until`` that data until a time has been seen; it never moves back."""
    model.fit_until = fit_until if model.fit_until is None else max(fit_until, model.fit_until)


def move_trained_encoders(model: nn.Module, fit_until: int) -> None:
    """Note in every part of a model that learns and keeps a ``fit_until`` that data until a time is seen.

    A click model that is trained end to end with an encoder inside calls this (or gives ``fit_until`` to
    ``graphrec.training.loop.train``), so that the encoder's file is refused for labels before that time.
    Parts whose weights are all frozen stay as they are.
    """
    for part in model.modules():
        if isinstance(part, FittedUntil) and any(weight.requires_grad for weight in part.parameters()):
            move_fit_until(part, fit_until)
