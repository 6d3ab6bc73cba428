"""DeepWalk: word2vec on random walks over a graph's visible edges (Perozzi et al., KDD 2014), by gensim."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from graph_builders import BehaviorGraph
from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.encoders.fit_until import FittedUntil
from samplers import NodeType, random_walks


@dataclass(frozen=True, kw_only=True)
class WalkVectorsConfig:
    """How DeepWalk is fitted.

    Attributes:
        channels: of a node's vector.
        walk_length: nodes in a walk.
        walks_per_node: from every node with an edge.
        window: pairs at most this many steps apart.
        num_negatives: sampled nodes a pair.
        epochs: passes over the walks.
        learning_rate: at the start; falls to 0.0001.
        random_seed: of walks and vectors. One thread, so that a seed gives the same vectors.

    """

    channels: int = 128
    walk_length: int = 40
    walks_per_node: int = 10
    window: int = 5
    num_negatives: int = 5
    epochs: int = 1
    learning_rate: float = 0.025
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=1, walk_length=2, walks_per_node=1, window=1, num_negatives=1)
        check_whole_numbers(self, epochs=1, random_seed=0)
        check_numbers(self, ("learning_rate",), above=1e-4)


class WalkVectors(FittedUntil):
    """A vector for each node of a graph, from the edges known before a time.

    Attributes:
        vectors: by node type, one row a node; 0 where no walk came by.

    """

    noun = "DeepWalk"

    def __init__(self, vectors: Mapping[NodeType, Float32[Tensor, "_ channels"]], *, fit_until: int) -> None:
        super().__init__()
        self.vectors, self.fit_until = dict(vectors), fit_until


def fit_walk_vectors(
    graph: BehaviorGraph, *, fit_until: int, config: WalkVectorsConfig = WalkVectorsConfig()
) -> WalkVectors:
    """Walk from every node over all edge types, and fit skip-gram with negative samples to the walks.

    Args:
        graph: on the CPU.
        fit_until: only edges known before this time are walked on.
        config: options.

    Raises:
        ValueError: no edge was known before ``fit_until``.

    """
    from gensim.models import Word2Vec

    first_row, offset = 0, dict[NodeType, int]()
    for node_type, num_rows in graph.num_nodes.items():
        offset[node_type], first_row = first_row, first_row + num_rows
    parts = [_walks(graph, node_type, offset, fit_until, config) for node_type in graph.node_types]
    corpus = _Corpus(parts)
    if not sum(map(len, parts)):
        raise ValueError(f"no edge was known before fit_until={fit_until}: take a later one")
    model: Any = Word2Vec(
        corpus,
        vector_size=config.channels,
        window=config.window,
        sg=1,
        negative=config.num_negatives,
        min_count=1,
        epochs=config.epochs,
        alpha=config.learning_rate,
        min_alpha=1e-4,
        seed=config.random_seed,
        workers=1,
    )
    joint = torch.zeros(first_row, config.channels)
    row = torch.tensor([int(word) for word in model.wv.index_to_key], dtype=torch.int64)
    joint[row] = torch.from_numpy(model.wv.vectors.copy())
    vectors = {name: joint[offset[name] : offset[name] + size] for name, size in graph.num_nodes.items()}
    return WalkVectors(vectors, fit_until=fit_until)


def _walks(
    graph: BehaviorGraph,
    node_type: NodeType,
    offset: Mapping[NodeType, int],
    fit_until: int,
    config: WalkVectorsConfig,
) -> Int32[Tensor, "num_walks walk_length"]:
    """Return walks of joint node numbers, -1 where a walk has ended; those of no step are left out."""
    start = torch.arange(graph.num_nodes[node_type])
    walks = random_walks(
        graph.csrs(),
        start,
        config.walk_length,
        start_type=node_type,
        as_of=torch.full_like(start, fit_until),
        walks_per_node=config.walks_per_node,
        random_seed=config.random_seed,
    )
    joint = torch.where(walks.mask, walks.joint_id(offset), -1).int()
    return joint[walks.mask[:, 1]]


class _Corpus:
    """Walks as gensim reads them, several times, row by row."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[list[str]]:
        for part in self.parts:
            for walk in part:
                yield [str(node) for node in walk[walk >= 0].tolist()]
