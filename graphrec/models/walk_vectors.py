"""DeepWalk: word2vec on random walks over a graph's visible edges (Perozzi et al., KDD 2014), by gensim."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from graph_builders import BehaviorGraph
from graph_builders.option_checks import check_whole_numbers
from graphrec.encoders.fit_until import FittedUntil
from graphrec.models.skip_gram import SkipGramConfig, fit_skip_gram
from samplers import NodeType, random_walks


@dataclass(frozen=True, kw_only=True)
class WalkVectorsConfig(SkipGramConfig):
    """How DeepWalk is fitted.

    Attributes:
        walk_length: nodes in a walk.
        walks_per_node: from every node with an edge.

    """

    walk_length: int = 40
    walks_per_node: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, walk_length=2, walks_per_node=1)


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
    first_row, offset = 0, dict[NodeType, int]()
    for node_type, num_rows in graph.num_nodes.items():
        offset[node_type], first_row = first_row, first_row + num_rows
    parts = [_walks(graph, node_type, offset, fit_until, config) for node_type in graph.node_types]
    corpus = _Corpus(parts)
    if not sum(map(len, parts)):
        raise ValueError(f"no edge was known before fit_until={fit_until}: take a later one")
    joint, _ = fit_skip_gram(corpus, first_row, config)
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
