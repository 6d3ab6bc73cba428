"""The CNN over a time heatmap: Meta-Profile Network (Gong et al., CIKM 2020), Table 2, and as an encoder.

Levels follow the calendar: days become weeks, weeks months, months seasons, seasons a year. A level is a
convolution (stride 1, same padding), batch norm, ReLU and max pooling. What the paper leaves open: values are
compressed to sign(v) log(1 + |v|), for amounts differ by a thousand times; the convolutions have no bias, for
batch norm takes it away again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from graph_builders.option_checks import check_whole_number, check_whole_numbers
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.heatmap import HOURS, HeatmapEncoding, Heatmaps
from graphrec.nn.sparse_convolution import SparseImages, same_padding, sparse_level


@dataclass(frozen=True, kw_only=True)
class ConvLevel:
    """Sizes of a level, in (days, hours).

    Attributes:
        becomes: what one of its output rows stands for.
        channels: of its output.
        kernel: of the convolution.
        pool: of the maximum; a rest, the oldest rows, is dropped.

    Raises:
        ValueError: a size is no whole number of at least 1.

    """

    becomes: str
    channels: int
    kernel: tuple[int, int]
    pool: tuple[int, int]

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=1)
        for name, sizes in (("kernel", self.kernel), ("pool", self.pool)):
            if len(sizes) != 2:
                raise ValueError(f"ConvLevel.{name} must be two numbers, days and hours, got {sizes}")
            for size in sizes:
                check_whole_number(f"ConvLevel.{name}", size, 1)


LEVELS: Mapping[int, tuple[ConvLevel, ...]] = {
    # the paper's Table 2: 365 days, 52 weeks, 13 months of four weeks, 4 seasons, 1 year
    365: (
        ConvLevel(becomes="week", channels=64, kernel=(7, 2), pool=(7, 2)),
        ConvLevel(becomes="month", channels=128, kernel=(4, 2), pool=(4, 2)),
        ConvLevel(becomes="season", channels=256, kernel=(3, 2), pool=(3, 2)),
        ConvLevel(becomes="year", channels=512, kernel=(1, 1), pool=(4, 3)),
    ),
    # 39 weeks do not make whole months that reach the oldest week: 13 times three, 3 quarters
    273: (
        ConvLevel(becomes="week", channels=64, kernel=(7, 2), pool=(7, 2)),
        ConvLevel(becomes="three weeks", channels=128, kernel=(3, 2), pool=(3, 2)),
        ConvLevel(becomes="quarter", channels=256, kernel=(4, 2), pool=(4, 2)),
        ConvLevel(becomes="nine months", channels=512, kernel=(1, 1), pool=(3, 3)),
    ),
    182: (
        ConvLevel(becomes="week", channels=64, kernel=(7, 2), pool=(7, 2)),
        ConvLevel(becomes="month", channels=128, kernel=(4, 2), pool=(4, 2)),
        ConvLevel(becomes="season", channels=256, kernel=(3, 2), pool=(3, 2)),
        ConvLevel(becomes="half year", channels=512, kernel=(1, 1), pool=(2, 3)),
    ),
    28: (
        ConvLevel(becomes="week", channels=64, kernel=(7, 2), pool=(7, 2)),
        ConvLevel(becomes="month", channels=128, kernel=(4, 2), pool=(4, 2)),
        ConvLevel(becomes="month", channels=256, kernel=(1, 2), pool=(1, 2)),
        ConvLevel(becomes="month", channels=512, kernel=(1, 1), pool=(1, 3)),
    ),
    14: (
        ConvLevel(becomes="week", channels=64, kernel=(7, 2), pool=(7, 2)),
        ConvLevel(becomes="fortnight", channels=128, kernel=(2, 2), pool=(2, 2)),
        ConvLevel(becomes="fortnight", channels=256, kernel=(1, 2), pool=(1, 2)),
        ConvLevel(becomes="fortnight", channels=512, kernel=(1, 1), pool=(1, 3)),
    ),
}
"""Levels by the number of days of the window."""


def narrow_levels(levels: Sequence[ConvLevel], factor: int) -> tuple[ConvLevel, ...]:
    """Return levels with a ``factor`` times fewer channels, at least one: for small data.

    Raises:
        ValueError: ``factor`` is no whole number of at least 1.

    """
    check_whole_number("factor", factor, 1)
    return tuple(
        ConvLevel(
            becomes=level.becomes,
            channels=max(level.channels // factor, 1),
            kernel=level.kernel,
            pool=level.pool,
        )
        for level in levels
    )


class HeatmapLevel(nn.Module):
    """Convolution, batch norm, ReLU, max pooling.

    Args:
        in_channels: of the images.
        in_size: rows and columns of the images.
        level: sizes.

    """

    def __init__(self, in_channels: int, in_size: tuple[int, int], level: ConvLevel) -> None:
        super().__init__()
        self.level, self.in_channels, self.out_channels = level, in_channels, level.channels
        self.in_rows, self.in_columns = in_size
        self.out_rows, self.out_columns = (
            size // pool for size, pool in zip(in_size, level.pool, strict=True)
        )
        self.conv = nn.Conv2d(in_channels, level.channels, level.kernel, bias=False)
        self.norm = nn.BatchNorm2d(level.channels)
        (above, below), (left, right) = (same_padding(kernel) for kernel in level.kernel)
        self.padding = (left, right, above, below)

    def forward(
        self, x: Float[Tensor, "num_images {self.in_channels} {self.in_rows} {self.in_columns}"]
    ) -> Float[Tensor, "num_images {self.out_channels} {self.out_rows} {self.out_columns}"]:
        """Return the pooled images."""
        x = self.norm(self.conv(functional.pad(x, self.padding)))
        return functional.max_pool2d(functional.relu(x), self.level.pool)

    def forward_sparse(
        self, images: SparseImages
    ) -> Float[Tensor, "num_images {self.out_channels} {self.out_rows} {self.out_columns}"]:
        """Return the same for images of which the cells are given that are not 0."""
        return sparse_level(images, self.conv.weight, self.norm, self.level.pool)


class HeatmapCNN(nn.Module):
    """The profile network of one modality, Table 2: from heatmaps to (num_queries, out_channels).

    Args:
        num_channels: of the heatmaps.
        num_days: of the heatmaps.
        levels: default: those of ``LEVELS`` for the window.
        first_level: "sparse" computes the first level only near the cells that are set; "dense" makes
            images of them first. Both give the same vectors and gradients, up to rounding and to which of
            several equal maxima a gradient goes. Sparse is several times as fast on a CPU.

    Raises:
        ValueError: there is no preset for the window, or the levels do not end in one cell that every day and
            hour can reach; the nearest windows that fit are named. Or channels or days are no whole numbers,
            channels at least 1.

    """

    def __init__(
        self,
        num_channels: int,
        num_days: int,
        *,
        levels: Sequence[ConvLevel] | None = None,
        first_level: Literal["sparse", "dense"] = "sparse",
    ) -> None:
        super().__init__()
        if first_level not in ("sparse", "dense"):
            raise ValueError(f"first_level must be 'sparse' or 'dense', got {first_level!r}")
        check_whole_number("num_channels", num_channels, 1)
        check_whole_number("num_days", num_days, 0)  # 0 is refused below, with the nearest that fits
        if levels is None:
            if num_days not in LEVELS:
                nearest = min(LEVELS, key=lambda days: abs(days - num_days))
                raise ValueError(
                    f"no preset covers a window of {num_days} days, there are {sorted(LEVELS)}: take "
                    f"{nearest} days, or give levels"
                )
            levels = LEVELS[num_days]
        check_window(num_days, levels)
        self.num_channels, self.num_days, self.first_level = num_channels, num_days, first_level
        layers, channels, size = [], num_channels, (num_days, HOURS)
        for level in levels:
            layers.append(HeatmapLevel(channels, size, level))
            channels, size = level.channels, (layers[-1].out_rows, layers[-1].out_columns)
        self.levels = nn.ModuleList(layers)
        self.out_channels = channels

    def forward(self, heatmaps: Heatmaps) -> Float[Tensor, "num_queries {self.out_channels}"]:
        """Return the vector of each heatmap.

        Raises:
            ValueError: the heatmaps have other days or channels.

        """
        found, wanted = (heatmaps.num_channels, heatmaps.num_days), (self.num_channels, self.num_days)
        if found != wanted:
            raise ValueError(
                f"heatmaps have (channels, days) {found}, the network reads {wanted}: encode them alike"
            )
        first, *others = self.levels
        assert isinstance(first, HeatmapLevel)
        if self.first_level == "dense":
            x = first(compress(heatmaps.dense()).to(first.conv.weight.dtype))
        else:
            x = first.forward_sparse(_images(heatmaps))
        for level in others:
            x = level(x)
        return x.flatten(1)


class HeatmapEncoder(NodeEncoder[Heatmaps]):
    """Time heatmaps of a node's history and their CNN, behind the contract of a node-feature encoder.

    What ``prepare`` returns is sparse, and can be kept by (node, time), on another device or on disk
    (``graphrec.encoders.heatmap_files``). Frozen (``requires_grad_(False)``), it stays in evaluation mode
    under ``train()``, so that batch norm's statistics are frozen too.

    Args:
        encoding: of the history.
        cnn: reads it; default: that of ``LEVELS``.

    Raises:
        ValueError: the two differ in channels or days, or as :class:`HeatmapCNN`.

    """

    def __init__(self, encoding: HeatmapEncoding, cnn: HeatmapCNN | None = None) -> None:
        super().__init__()
        cnn = HeatmapCNN(len(encoding.channels), encoding.num_days) if cnn is None else cnn
        made, read = (len(encoding.channels), encoding.num_days), (cnn.num_channels, cnn.num_days)
        if made != read:
            raise ValueError(f"the encoding makes (channels, days) {made}, the network reads {read}")
        self.encoding, self.cnn, self.out_channels = encoding, cnn, cnn.out_channels
        self.requests: Mapping[str, HistoryRequest] = {"heatmap": encoding.request}

    def prepare(self, inputs: EncoderInput) -> Heatmaps:
        """Turn histories into sparse heatmaps."""
        return self.encoding.encode(inputs.histories["heatmap"], inputs.time, inputs.units_per_second)

    def forward(self, prepared: Heatmaps) -> Tensor:
        """Return the vector of each heatmap; (num_queries, out_channels)."""
        vectors: Tensor = self.cnn(prepared)
        return vectors

    def train(self, mode: bool = True) -> "HeatmapEncoder":
        """Switch to training mode, or to evaluation mode where nothing of the encoder learns."""
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        return self


def compress(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return sign(v) log(1 + abs(v)): 0 stays 0."""
    return value.sign() * value.abs().log1p()


def check_window(num_days: int, levels: Sequence[ConvLevel]) -> None:
    """Check that levels reduce the window to one cell, and that every day and hour can change it.

    Raises:
        ValueError: they do not; the nearest window that they cover is named, or that there is none.

    """
    if not levels:
        raise ValueError("a heatmap's network needs at least one level")
    if _covered(HOURS, levels, axis=1) != HOURS:
        raise ValueError(
            f"the pools of {[level.pool[1] for level in levels]} hours do not cover a day of {HOURS} hours: "
            "take some whose product is 24"
        )
    if num_days >= 1 and _covered(num_days, levels, axis=0) == num_days:
        return
    most = math.prod(level.pool[0] for level in levels) * 2
    fitting = [days for days in range(1, most) if _covered(days, levels, axis=0) == days]
    nearest = min(fitting, key=lambda days: abs(days - num_days))
    raise ValueError(
        f"the levels do not cover a window of {num_days} days: the nearest that fits is {nearest} days "
        f"(presets: {sorted(LEVELS)})"
    )


def _covered(size: int, levels: Sequence[ConvLevel], *, axis: int) -> int | None:
    """Return how many rows, from the newest on, can change the output; None if it is not one row.

    A pool drops a rest of its rows; the convolution before it lets those just behind the last full pool in.
    """
    sizes = [size]
    for level in levels:
        sizes.append(sizes[-1] // level.pool[axis])
    if sizes[-1] != 1:
        return None
    seen = 1
    for level, rows in zip(reversed(levels), reversed(sizes[:-1]), strict=True):
        _, behind = same_padding(level.kernel[axis])
        seen = min(seen * level.pool[axis] + behind, rows)
    return seen


def _images(heatmaps: Heatmaps) -> SparseImages:
    place = (heatmaps.query_of_cell() * heatmaps.num_days + heatmaps.day) * HOURS + heatmaps.hour
    return SparseImages(
        num_images=len(heatmaps),
        num_rows=heatmaps.num_days,
        num_columns=HOURS,
        place=place,
        channel=heatmaps.channel.long(),
        value=compress(heatmaps.value),
    )
