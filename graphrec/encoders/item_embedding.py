"""Item embeddings of LURM: the mean of word embeddings, two residual blocks, a vector of length 1."""

from typing import ClassVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.item_text import ItemWords


class ResidualBlock(nn.Module):
    """Add to a vector what two linear layers with a ReLU between make of it; (..., channels) as before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels, channels), nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "*rows channels"]) -> Float[Tensor, "*rows channels"]:
        """Return the sum."""
        return x + self.second(torch.relu(self.first(x)))


class ItemEmbedding(FittedUntil):
    r"""From the words of items to vectors of length 1.

    .. math:: e_x = \operatorname{proj}\Big(\frac{1}{|x|} \sum_i W_i\Big)

    Equation (1) of LURM (Yang et al., 2021): proj is two residual blocks and L2 normalisation. The paper does
    not say what a block is: ours is ``x + W_2 relu(W_1 x + b_1) + b_2``. The mean is over the known words;
    items without one all have the same vector, which means nothing (``ItemWords.is_known``).

    Args:
        num_words: of the vocabulary.
        channels: of words and items.

    """

    noun: ClassVar[str] = "item embedding"

    def __init__(self, num_words: int, *, channels: int = 128) -> None:
        super().__init__()
        self.word = nn.EmbeddingBag(num_words, channels, mode="mean", include_last_offset=True)
        self.projection = nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))

    @property
    def out_channels(self) -> int:
        """Width of the vectors."""
        return int(self.word.embedding_dim)

    def forward(self, words: ItemWords) -> Float[Tensor, "num_items channels"]:
        """Return a vector for each item."""
        mean = self.word(words.code, words.ptr)
        return functional.normalize(self.projection(mean), dim=1)


@torch.no_grad()
def embed_items(
    model: ItemEmbedding, words: ItemWords, *, block_size: int = 65_536
) -> Float32[Tensor, "num_items channels"]:
    """Return the vectors of many items, computed on the model's device by blocks, on the CPU."""
    model.eval()
    device = model.word.weight.device
    out = torch.empty(len(words), model.out_channels)
    for item in torch.arange(len(words)).split(block_size):
        out[item] = model(words.take(item.to(words.ptr.device)).to(device)).cpu()
    return out
