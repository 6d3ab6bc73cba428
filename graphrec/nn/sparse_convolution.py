"""A first level of a CNN that knows its images are nearly empty: convolution, batch norm, ReLU, max pooling.

Far from every cell that is not 0, a convolution without bias gives 0. So only the places near such a cell
are computed; all others share one value, of which batch statistics and maxima take account. The result is
that of the dense level, for a fraction of the work where few cells are set: a sum of learned patches at the
events.

Axis letters: S places of cells, I input channels, R rows of the kernel, J its columns, E pairs of a cell's
place and a place that its patch reaches, P reached places, C output channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graphrec.nn.precision import at_least_float32


@dataclass(frozen=True, eq=False)
class SparseImages:
    """Cells of images that are not 0, each once.

    Attributes:
        num_images: also those without cells.
        num_rows: of each image.
        num_columns: of each image.
        place: (image * num_rows + row) * num_columns + column of each cell.
        channel: of each cell.
        value: of each cell.

    """

    num_images: int
    num_rows: int
    num_columns: int
    place: Int64[Tensor, " num_cells"]
    channel: Int64[Tensor, " num_cells"]
    value: Float[Tensor, " num_cells"]


def same_padding(kernel: int) -> tuple[int, int]:
    """Return what is added before and behind an axis so that its length stays; of an odd sum more behind."""
    return (kernel - 1) // 2, kernel // 2


def sparse_level(
    images: SparseImages,
    weight: Float[Tensor, "out_channels in_channels kernel_rows kernel_columns"],
    norm: nn.BatchNorm2d,
    pool: tuple[int, int],
) -> Float[Tensor, "num_images out_channels out_rows out_columns"]:
    """Return ``max_pool(relu(norm(conv(images))))`` with same padding and no bias.

    Args:
        images: the cells.
        weight: of the convolution.
        norm: its weights and running statistics; the latter move in training, as its own ``forward`` does.
        pool: rows and columns of a maximum; rests at the ends are dropped.

    """
    if not images.num_images:  # no statistics to take, as in batch norm
        size = images.num_rows // pool[0], images.num_columns // pool[1]
        return weight.new_zeros(0, len(weight), *size)
    place_E, patch_EC = _patches(images, weight)
    num_places = images.num_images * images.num_rows * images.num_columns
    place_P, rank_E = place_E.unique(return_inverse=True)
    x_PC = patch_EC.new_zeros(len(place_P), len(weight))
    x_PC = x_PC.scatter_add(0, rank_E[:, None].expand_as(patch_EC), patch_EC)
    scale, shift = _normalisation(x_PC, num_places, norm)
    return _pooled(images, place_P, (x_PC * scale + shift).relu(), shift.relu(), pool)


def _patches(
    images: SparseImages, weight: Float[Tensor, "out_channels in_channels kernel_rows kernel_columns"]
) -> tuple[Tensor, Tensor]:
    """Return the places that a cell reaches, once for each cell's place, and what it adds to them.

    Cells of one place are multiplied together, by a dense product over their channels: the channels of a
    purchase come at the same hour.
    """
    out_channels, in_channels, kernel_rows, kernel_columns = weight.shape
    device = images.place.device
    place_S, place_of_cell = images.place.unique(return_inverse=True)
    value_SI = torch.zeros(len(place_S) * in_channels, dtype=weight.dtype, device=device)
    value_SI = value_SI.index_add(
        0, place_of_cell * in_channels + images.channel, images.value.to(weight.dtype)
    ).view(-1, in_channels)
    # under autocast the product is bfloat16: patches are summed up, and statistics taken, in float32
    patch_SC = at_least_float32(value_SI @ weight.permute(1, 2, 3, 0).reshape(in_channels, -1))
    # the place (r, c) reads the cells (r + i - before, c + j - before)
    i = torch.arange(kernel_rows, device=device) - same_padding(kernel_rows)[0]
    j = torch.arange(kernel_columns, device=device) - same_padding(kernel_columns)[0]
    row_SR = (place_S // images.num_columns % images.num_rows)[:, None] - i
    column_SJ = (place_S % images.num_columns)[:, None] - j
    inside = ((row_SR >= 0) & (row_SR < images.num_rows))[:, :, None] & (
        (column_SJ >= 0) & (column_SJ < images.num_columns)
    )[:, None, :]
    place = place_S[:, None, None] - (i[:, None] * images.num_columns + j)
    kept = inside.flatten().nonzero().flatten()
    return place.flatten()[kept], patch_SC.view(-1, out_channels)[kept]


def _normalisation(
    x: Float[Tensor, "num_reached channels"], num_places: int, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """Return scale and shift of batch norm over all places, of which those not reached hold 0."""
    if norm.training:
        mean = x.sum(0) / num_places
        squares = (x - mean).square().sum(0) + (num_places - len(x)) * mean.square()
        variance = squares / num_places
        _move_statistics(norm, mean.detach(), squares.detach() / max(num_places - 1, 1))
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean, norm.running_var
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


@torch.no_grad()
def _move_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance, norm.momentum)


def _pooled(
    images: SparseImages,
    place: Int64[Tensor, " num_reached"],
    x: Float[Tensor, "num_reached channels"],
    elsewhere: Float[Tensor, " channels"],
    pool: tuple[int, int],
) -> Float[Tensor, "num_images channels out_rows out_columns"]:
    """Return the maxima of values at the reached places and ``elsewhere`` at all others, 0 at least."""
    out_rows, out_columns = images.num_rows // pool[0], images.num_columns // pool[1]
    column, row = (
        place % images.num_columns // pool[1],
        place // images.num_columns % images.num_rows // pool[0],
    )
    image = place // images.num_columns // images.num_rows
    kept = ((row < out_rows) & (column < out_columns)).nonzero().flatten()
    cell = ((image * out_rows + row) * out_columns + column)[kept]
    count = torch.bincount(cell, minlength=images.num_images * out_rows * out_columns)
    # where all places are reached, no other counts
    least = torch.where((count < pool[0] * pool[1])[:, None], elsewhere, torch.zeros_like(elsewhere))
    most = least.scatter_reduce(0, cell[:, None].expand(-1, x.shape[1]), x[kept], "amax")
    return most.view(images.num_images, out_rows, out_columns, -1).permute(0, 3, 1, 2).contiguous()
