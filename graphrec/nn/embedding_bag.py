"""Weighted sums of table rows that can be differentiated twice, which torch's ``embedding_bag`` cannot.

Axis letters: D bags, K values of a bag, N rows of the table, C channels.
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from graphrec.nn import compiled


def weighted_bags(
    index: Int[Tensor, "num_bags bag_size"],
    table: Float[Tensor, "num_rows channels"],
    weight: Float[Tensor, "num_bags bag_size"],
) -> Float[Tensor, "num_bags channels"]:
    r"""Return :math:`y_d = \sum_k w_{dk} T_{i_{dk}}` for each bag, without a (D, K, C) tensor.

    The same numbers as ``embedding_bag(index, table, mode="sum", per_sample_weights=weight)``. With respect
    to one another, this sum, its transpose and the inner product below are each other's derivatives, so
    derivatives of any order exist. On the CPU all three are compiled loops.
    """
    return _apply(_Sum, table, weight, _Bags(index, len(table)))


class _Bags:
    """Which rows lie in which bag, and the other way round."""

    def __init__(self, index_DK: Tensor, num_rows: int) -> None:
        self.index, self.num_rows = index_DK, num_rows

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slots (D * K) in the order of their rows, each slot's bag, and where each row begins."""
        row, slot = self.index.flatten().sort(stable=True)
        bag = slot // max(self.index.shape[1], 1)
        return slot, bag, torch.searchsorted(row, torch.arange(self.num_rows, device=row.device))


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    # without gradients the loop alone: what torch does around a function costs as much as a small loop
    call: Any = function.apply if torch.is_grad_enabled() else function.forward
    result: Tensor = call(*inputs)
    return result


def _on_cpu(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


class _Sum(torch.autograd.Function):
    """y_d = sum_k w_dk T_i."""

    @staticmethod
    def forward(table_NC: Tensor, weight_DK: Tensor, bags: _Bags) -> Tensor:
        if _on_cpu(table_NC):
            out = table_NC.new_zeros(len(bags.index), table_NC.shape[1])
            compiled.sum_bags(*_arrays(bags.index, table_NC, weight_DK, out))
            return out
        return functional.embedding_bag(
            bags.index, table_NC.contiguous(), mode="sum", per_sample_weights=weight_DK.contiguous()
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.bags = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient_DC: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, weight = ctx.saved_tensors
        return (
            _apply(_TransposedSum, gradient_DC, weight, ctx.bags) if ctx.needs_input_grad[0] else None,
            _apply(_InnerProduct, gradient_DC, table, ctx.bags) if ctx.needs_input_grad[1] else None,
            None,
        )


class _TransposedSum(torch.autograd.Function):
    """z_n = sum of w_dk x_d over the slots with i_dk = n."""

    @staticmethod
    def forward(x_DC: Tensor, weight_DK: Tensor, bags: _Bags) -> Tensor:
        if _on_cpu(x_DC):
            out = x_DC.new_zeros(bags.num_rows, x_DC.shape[1])
            compiled.scatter_bags(*_arrays(bags.index, x_DC, weight_DK, out))
            return out
        slot, bag, first = bags.transposed
        weight = weight_DK.reshape(-1)[slot]
        return functional.embedding_bag(bag, x_DC.contiguous(), first, mode="sum", per_sample_weights=weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.bags = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient_NC: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        return (
            _apply(_Sum, gradient_NC, weight, ctx.bags) if ctx.needs_input_grad[0] else None,
            _apply(_InnerProduct, x, gradient_NC, ctx.bags) if ctx.needs_input_grad[1] else None,
            None,
        )


class _InnerProduct(torch.autograd.Function):
    """p_dk = <x_d, T_i>."""

    @staticmethod
    def forward(x_DC: Tensor, table_NC: Tensor, bags: _Bags) -> Tensor:
        if _on_cpu(x_DC):
            out = x_DC.new_zeros(bags.index.shape)
            compiled.bag_products(*_arrays(bags.index, x_DC, table_NC, out))
            return out
        return torch.bmm(functional.embedding(bags.index, table_NC), x_DC[:, :, None])[..., 0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.bags = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient_DK: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, table = ctx.saved_tensors
        return (
            _apply(_Sum, table, gradient_DK, ctx.bags) if ctx.needs_input_grad[0] else None,
            _apply(_TransposedSum, x, gradient_DK, ctx.bags) if ctx.needs_input_grad[1] else None,
            None,
        )
