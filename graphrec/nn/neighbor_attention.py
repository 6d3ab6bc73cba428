"""The attention of a graph layer over padded neighbours: torch's operations, or a compiled loop on the CPU.

Axis letters: D destination nodes, S source nodes, K neighbour slots, H heads, C channels, A edge attributes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from graphrec.nn import compiled
from graphrec.nn.embedding_bag import weighted_bags
from graphrec.nn.precision import at_least_float32

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
_differentiated_twice = ContextVar("_differentiated_twice", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within this context attention has second derivatives, which a step of gradient descent asks for."""
    token = _differentiated_twice.set(True)
    try:
        yield
    finally:
        _differentiated_twice.reset(token)


def neighbor_attention(
    logit: Float[Tensor, "num_destinations num_heads"],
    source_logit: Float[Tensor, "num_sources num_heads"],
    source: Float[Tensor, "num_sources num_heads channels"],
    neighbor: Int[Tensor, "num_destinations num_neighbors"],
    mask: Bool[Tensor, "num_destinations num_neighbors"],
    edge_attr: Float[Tensor, "num_destinations num_neighbors edge_channels"],
    edge_weight: Float[Tensor, "num_heads edge_channels"],
    negative_slope: float,
) -> tuple[
    Float[Tensor, "num_destinations num_heads channels"],
    Float[Tensor, "num_destinations num_heads edge_channels"],
]:
    r"""Weigh each node's neighbours by a softmax of their logits, and sum what they bring.

    .. math::
        \alpha_{ij} = \operatorname{softmax}_{j \in N_i}
            \operatorname{LeakyReLU}(l_i + l_j + w^\top e_{ij}), \qquad
        \Big(\sum_j \alpha_{ij} x_j,\; \sum_j \alpha_{ij} e_{ij}\Big)

    A node without neighbours gets zeros. No (D, K, H, C) tensor is made. On the CPU this is a compiled loop
    with first derivatives, but for those by ``edge_attr``; :func:`twice_differentiable` keeps to torch's
    operations. Both compute in float32 under autocast: it is sums, not large products.
    """
    logit, source_logit, source, edge_attr, edge_weight = (
        at_least_float32(value) for value in (logit, source_logit, source, edge_attr, edge_weight)
    )
    on_cpu = source.device.type == "cpu" and source.dtype in (torch.float32, torch.float64)
    if on_cpu and not edge_attr.requires_grad and not _differentiated_twice.get():
        inputs = (logit, source_logit, source, edge_weight)
        # without gradients the loop alone: what torch does around a function costs as much as a small loop
        attend = _Attend.apply if torch.is_grad_enabled() else _Attend.forward
        out, pooled, _, _ = attend(*inputs, neighbor, mask, edge_attr, negative_slope)
        return out, pooled
    with torch.autocast(source.device.type, enabled=False):
        return _by_operations(
            logit, source_logit, source, edge_weight, neighbor, mask, edge_attr, negative_slope
        )


def _by_operations(
    logit_DH: Tensor,
    logit_SH: Tensor,
    source_SHC: Tensor,
    weight_HA: Tensor,
    neighbor_DK: Tensor,
    mask_DK: Tensor,
    attr_DKA: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor]:
    if not neighbor_DK.shape[1] or not len(source_SHC):
        shape = (len(logit_DH), logit_DH.shape[1])
        return source_SHC.new_zeros(*shape, source_SHC.shape[2]), source_SHC.new_zeros(
            *shape, attr_DKA.shape[2]
        )
    logit_DKH = logit_DH[:, None] + functional.embedding(neighbor_DK, logit_SH) + attr_DKA @ weight_HA.T
    logit_DKH = functional.leaky_relu(logit_DKH, slope)
    logit_DKH = logit_DKH.masked_fill(~mask_DK[..., None], torch.finfo(logit_DKH.dtype).min)
    alpha_DKH = logit_DKH.softmax(dim=1) * mask_DK[..., None]
    out_DHC = torch.stack(
        [weighted_bags(neighbor_DK, source_SHC[:, h], alpha_DKH[..., h]) for h in range(source_SHC.shape[1])],
        dim=1,
    )
    return out_DHC, torch.einsum("dkh,dka->dha", alpha_DKH, attr_DKA)


class _Attend(torch.autograd.Function):
    """The compiled loop; its gradient is a function of its own: so torch.func's wrappers are off in both."""

    @staticmethod
    def forward(
        logit: Tensor,
        source_logit: Tensor,
        source: Tensor,
        edge_weight: Tensor,
        neighbor: Tensor,
        mask: Tensor,
        edge_attr: Tensor,
        slope: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = (len(logit), source.shape[1])
        out, pooled = source.new_zeros(*shape, source.shape[2]), source.new_zeros(*shape, edge_attr.shape[2])
        alpha = source.new_zeros(*neighbor.shape, source.shape[1])
        is_negative = torch.zeros(alpha.shape, dtype=torch.bool)
        compiled.attend(
            *_arrays(logit, source_logit, source, neighbor, mask, edge_attr, edge_weight),
            slope,
            *_arrays(out, pooled, alpha, is_negative),
        )
        return out, pooled, alpha, is_negative

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:7], *output[2:])
        ctx.slope = inputs[7]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = _AttendGradient.apply(*gradients[:2], *ctx.saved_tensors, ctx.slope)  # type: ignore[no-untyped-call]
        return (*found, None, None, None, None)


class _AttendGradient(torch.autograd.Function):
    """The gradient of the loop as a function of the loop's inputs and of its output's gradients."""

    @staticmethod
    def forward(
        gradient: Tensor,
        pooled_gradient: Tensor,
        logit: Tensor,
        source_logit: Tensor,
        source: Tensor,
        edge_weight: Tensor,
        neighbor: Tensor,
        mask: Tensor,
        edge_attr: Tensor,
        alpha: Tensor,
        is_negative: Tensor,
        slope: float,
    ) -> Gradients:
        found = tuple(x.new_zeros(x.shape) for x in (logit, source_logit, source, edge_weight))
        compiled.attend_backward(
            *_arrays(gradient, pooled_gradient, source, neighbor, mask, edge_attr),
            slope,
            *_arrays(alpha, is_negative, *found),
        )
        return found[0], found[1], found[2], found[3]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Gradients) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        raise RuntimeError(
            "the compiled attention has first derivatives alone: run the forward pass inside "
            "graphrec.nn.neighbor_attention.twice_differentiable()"
        )


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]
