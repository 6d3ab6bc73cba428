"""Several node-feature encoders of one node type as one: their vectors side by side, or weighed by a gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graph_builders import FeatureTable
from graph_builders.option_checks import check_whole_number
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.fit_until import Fitted

BETWEEN = "/"  # an encoder's name and that of its history


@dataclass(frozen=True, eq=False)
class JoinedInputs:
    """What each encoder prepared, by its name."""

    parts: Mapping[str, Any]

    def to(self, device: torch.device | str) -> "JoinedInputs":
        """Copy to another device."""
        return JoinedInputs({name: part.to(device) for name, part in self.parts.items()})


class JoinedEncoders(NodeEncoder[JoinedInputs]):
    r"""One vector of several encoders' vectors :math:`v_k`, each a view of the same node at the same time.

    .. math::
        \text{"concatenated":}\quad W [v_1 \| \dots \| v_n] + b, \qquad
        \text{"gated":}\quad \sum_k g_k P_k v_k, \quad
        g = \operatorname{softmax}_k\big(a_k^\top P_k v_k\big)

    The gate is ours, after LSTTM's (equations 4 and 5): maps :math:`P_k` bring the vectors to one width, and
    the weights :math:`a_k` start at zero, so that all encoders count alike at first.

    Args:
        encoders: by names of their own; all for one node type.
        out_channels: of the joined vector.
        how: "concatenated" or "gated".

    Raises:
        TypeError: a part is no node-feature encoder.
        ValueError: no encoder, a name that torch or the names of histories cannot take, ``out_channels`` that
            is no whole number above 0, or another ``how``.

    """

    def __init__(
        self,
        encoders: Mapping[str, NodeEncoder[Any]],
        *,
        out_channels: int,
        how: Literal["concatenated", "gated"] = "concatenated",
    ) -> None:
        super().__init__()
        if how not in ("concatenated", "gated"):
            raise ValueError(f'how must be "concatenated" or "gated", got {how!r}')
        check_whole_number("out_channels", out_channels, 1)
        names = [name for name in encoders if isinstance(name, str) and name]
        # torch keeps parts as attributes: no part can be called as what its dictionary has already
        taken = [name for name in names if hasattr(nn.ModuleDict(), name)]
        if not encoders or len(names) < len(encoders) or taken or {BETWEEN, "."} & {*"".join(names)}:
            raise ValueError(
                "give one encoder at least, each a name without a slash or a dot that torch does not use "
                f"itself: got {list(encoders)}, of which torch uses {taken}"
            )
        for name, one in encoders.items():
            if not isinstance(one, NodeEncoder):
                raise TypeError(f"part {name!r} is a {type(one).__name__}, it must be a NodeEncoder")
        self.encoders = nn.ModuleDict(encoders)
        self.out_channels, self.how = out_channels, how
        self.requests: dict[str, HistoryRequest] = {
            f"{name}{BETWEEN}{history}": request
            for name, encoder in encoders.items()
            for history, request in encoder.requests.items()
        }
        self.fields = tuple(dict.fromkeys(field for one in encoders.values() for field in one.fields))
        widths = {name: encoder.out_channels for name, encoder in encoders.items()}
        if how == "concatenated":
            self.projection = nn.Linear(sum(widths.values()), out_channels)
        else:
            self.projections = nn.ModuleDict(
                {name: nn.Linear(width, out_channels) for name, width in widths.items()}
            )
            self.gate = nn.Parameter(torch.zeros(len(widths), out_channels))

    def prepare(self, inputs: EncoderInput) -> JoinedInputs:
        """Give each encoder its own histories and fields."""
        parts = {}
        for name, encoder in self._each():
            own = replace(
                inputs,
                histories={
                    history: inputs.histories[f"{name}{BETWEEN}{history}"] for history in encoder.requests
                },
                fields=FeatureTable(len(inputs), {field: inputs.fields[field] for field in encoder.fields}),
            )
            parts[name] = encoder.prepare(own)
        return JoinedInputs(parts)

    def forward(self, prepared: JoinedInputs) -> Tensor:
        """Return a vector for each query; (num_queries, out_channels)."""
        vectors = {name: encoder(prepared.parts[name]) for name, encoder in self._each()}
        if self.how == "concatenated":
            out: Tensor = self.projection(torch.cat(list(vectors.values()), dim=1))
            return out
        mapped = self._mapped(vectors)
        return (self._weights(mapped)[..., None] * mapped).sum(dim=1)

    @torch.no_grad()
    def gate_weights(self, prepared: JoinedInputs) -> Tensor:
        """Return how much each encoder counts for each query, (num_queries, num_encoders), to look at.

        Raises:
            ValueError: the vectors are concatenated, not gated.

        """
        if self.how != "gated":
            raise ValueError('there is no gate where how="concatenated"')
        return self._weights(
            self._mapped({name: encoder(prepared.parts[name]) for name, encoder in self._each()})
        )

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return what all encoders were fitted by."""
        return [part for _, encoder in self._each() for part in encoder.fitted_parts()]

    def train(self, mode: bool = True) -> "JoinedEncoders":
        """Switch dropout on or off, but leave it off in encoders that do not learn."""
        super().train(mode)
        for _, encoder in self._each():
            encoder.train(mode and any(parameter.requires_grad for parameter in encoder.parameters()))
        return self

    def _each(self) -> list[tuple[str, NodeEncoder[Any]]]:
        return [(name, one) for name, one in self.encoders.items() if isinstance(one, NodeEncoder)]

    def _mapped(self, vectors: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.projections[name](vector) for name, vector in vectors.items()], dim=1)

    def _weights(self, mapped: Tensor) -> Tensor:
        return torch.einsum("nkc,kc->nk", mapped, self.gate).softmax(dim=1)
