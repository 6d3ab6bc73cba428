"""Weighted sums of table rows that can be differentiated twice, which torch's ``embedding_bag`` cannot.

Axis letters: D bags, K values of a bag where bags are of one size, N rows of the table, C channels.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional

from graphrec.nn import compiled
from graphrec.nn.precision import at_least_float32

_SUM = 0  # the mode's number inside of torch


def weighted_bags(
    index: Int[Tensor, "num_bags bag_size"],
    table: Float[Tensor, "num_rows channels"],
    weight: Float[Tensor, "num_bags bag_size"],
) -> Float[Tensor, "num_bags channels"]:
    r"""Return :math:`y_d = \sum_k w_{dk} T_{i_{dk}}` for each bag, without a (D, K, C) tensor.

    The same numbers as ``embedding_bag(index, table, mode="sum", per_sample_weights=weight)``. With respect
    to one another, this sum, its transpose and the inner product below are each other's derivatives, so
    derivatives of any order exist. On the CPU all three are compiled loops. Values of 16 bits, as they come
    from products under autocast, are summed in float32.
    """
    return _apply(_Sum, at_least_float32(table), at_least_float32(weight), _EqualBags(index, len(table)))


def weighted_ragged_bags(
    index: Int64[Tensor, " num_values"],
    ptr: Int64[Tensor, " num_bags_and_one"],
    table: Float[Tensor, "num_rows channels"],
    weight: Float[Tensor, " num_values"],
) -> Float[Tensor, "num_bags channels"]:
    """Return the sums of :func:`weighted_bags` for bags of any sizes: bag d holds ``ptr[d]:ptr[d + 1]``.

    The loops are torch's own on every device; no (values, C) tensor is made.
    """
    bags = _RaggedBags(index, ptr, len(table))
    return _apply(_Sum, at_least_float32(table), at_least_float32(weight), bags)


class _Bags(ABC):
    """Which rows lie in which bag, and three loops over them."""

    @abstractmethod
    def sum(self, table_NC: Tensor, weight: Tensor) -> Tensor:
        """y_d = sum_k w_dk T_i."""

    @abstractmethod
    def transposed_sum(self, x_DC: Tensor, weight: Tensor) -> Tensor:
        """z_n = sum of w_dk x_d over the slots with i_dk = n."""

    @abstractmethod
    def products(self, x_DC: Tensor, table_NC: Tensor) -> Tensor:
        """p_dk = <x_d, T_i>."""


class _EqualBags(_Bags):
    """Bags of one size: rows of an index (D, K)."""

    def __init__(self, index_DK: Tensor, num_rows: int) -> None:
        self.index, self.num_rows = index_DK, num_rows

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slots in the order of their rows, each slot's bag, and where each row begins."""
        slot, first = _by_row(self.index.flatten(), self.num_rows)
        return slot, slot // max(self.index.shape[1], 1), first

    def sum(self, table_NC: Tensor, weight_DK: Tensor) -> Tensor:
        if _on_cpu(table_NC):
            out = table_NC.new_zeros(len(self.index), table_NC.shape[1])
            compiled.sum_bags(*_arrays(self.index, table_NC, weight_DK, out))
            return out
        return functional.embedding_bag(
            self.index, table_NC.contiguous(), mode="sum", per_sample_weights=weight_DK.contiguous()
        )

    def transposed_sum(self, x_DC: Tensor, weight_DK: Tensor) -> Tensor:
        if _on_cpu(x_DC):
            out = x_DC.new_zeros(self.num_rows, x_DC.shape[1])
            compiled.scatter_bags(*_arrays(self.index, x_DC, weight_DK, out))
            return out
        slot, bag, first = self.transposed
        weight = weight_DK.reshape(-1)[slot]
        return functional.embedding_bag(bag, x_DC.contiguous(), first, mode="sum", per_sample_weights=weight)

    def products(self, x_DC: Tensor, table_NC: Tensor) -> Tensor:
        if _on_cpu(x_DC):
            out = x_DC.new_zeros(self.index.shape)
            compiled.bag_products(*_arrays(self.index, x_DC, table_NC, out))
            return out
        with torch.autocast(x_DC.device.type, enabled=False):
            return torch.bmm(functional.embedding(self.index, table_NC), x_DC[:, :, None])[..., 0]


class _RaggedBags(_Bags):
    """Bags of any sizes, their values one behind the other."""

    def __init__(self, index: Tensor, ptr: Tensor, num_rows: int) -> None:
        self.index, self.ptr, self.num_rows = index, ptr, num_rows

    @cached_property
    def bag(self) -> Tensor:
        """Return each value's bag."""
        return torch.repeat_interleave(self.ptr.diff())

    @cached_property
    def by_row(self) -> tuple[Tensor, Tensor]:
        """Return the values in the order of their rows, and where each row begins."""
        return _by_row(self.index, self.num_rows)

    def sum(self, table_NC: Tensor, weight: Tensor) -> Tensor:
        return functional.embedding_bag(
            self.index,
            table_NC.contiguous(),
            self.ptr,
            mode="sum",
            per_sample_weights=weight.contiguous(),
            include_last_offset=True,
        )

    def transposed_sum(self, x_DC: Tensor, weight: Tensor) -> Tensor:
        value, first = self.by_row
        return functional.embedding_bag(
            self.bag[value], x_DC.contiguous(), first, mode="sum", per_sample_weights=weight[value]
        )

    def products(self, x_DC: Tensor, table_NC: Tensor) -> Tensor:
        # torch's first derivative of its own sum by the weights, which has no derivative in torch
        of_weight: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            x_DC.contiguous(), table_NC.contiguous(), self.index, self.ptr[:-1], self.bag, _SUM
        )
        return of_weight


def _by_row(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return the places of an index in the order of the rows that they name, and where each row begins."""
    row, place = index.sort(stable=True)
    return place, torch.searchsorted(row, torch.arange(num_rows, device=row.device))


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
    def forward(table_NC: Tensor, weight: Tensor, bags: _Bags) -> Tensor:
        return bags.sum(table_NC, weight)

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
    def forward(x_DC: Tensor, weight: Tensor, bags: _Bags) -> Tensor:
        return bags.transposed_sum(x_DC, weight)

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
        return bags.products(x_DC, table_NC)

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
