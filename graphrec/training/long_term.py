"""The long-term module, trained by day on walks: LSTTM sections 3.3 and 3.5.2, equation (8).

A day's vectors come from edges before the day alone. The module goes on from the day before (a warm start),
and one snapshot of all vectors is kept a day: training rows of a day read that day's snapshot, exactly as in
serving, where the long-term vectors are fixed for the day.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.input_reader import InputReader
from graphrec.losses import neighbor_similarity_loss, walk_pairs
from graphrec.models.lsttm import SOURCE_TYPE, LongTermGraph
from graphrec.nn.bipartite_gat import merge_neighbors
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from samplers import (
    EdgeType,
    MultiHopSampler,
    NodeType,
    TemporalCSR,
    UniformNeighborSampler,
    WeightedNeighborSampler,
    count_edges,
    random_walks,
)
from samplers.multi_hop import Strategy

ENCODED_AT_ONCE = 4096  # nodes, where no gradient is taken


@dataclass(frozen=True, kw_only=True)
class LongTermConfig:
    """How the long-term module is built and trained.

    Attributes:
        channels: size of the vectors (paper: 16).
        num_layers: layers of graph attention (paper: 2).
        num_neighbors: neighbours of a node at every hop, all edge types pooled (paper: up to 30).
        strategy: "uniform" neighbours, or "recency": likelier the more recent, halving every ``half_life``.
        half_life: of "recency", in the events' unit of time.
        self_term: whether a node keeps its own embedding beside what it gathers.
        walk_length: nodes in a walk (paper: 10).
        context_size: pairs at most this many steps apart; None for all pairs, as equation (8) has it.
        num_negatives: sampled negatives a pair; 0 is the paper's printed form.
        num_walks: walks a step, from nodes drawn by their number of edges.
        first_steps, steps: gradient steps on the first day, and on each later day.
        learning_rate: of Adam.
        random_seed: keys every draw.

    """

    channels: int = 16
    num_layers: int = 2
    num_neighbors: int = 10
    strategy: Literal["uniform", "recency"] = "uniform"
    half_life: int | None = None
    self_term: bool = True
    walk_length: int = 10
    context_size: int | None = 4
    num_negatives: int = 5
    num_walks: int = 2048
    first_steps: int = 40
    steps: int = 6
    learning_rate: float = 0.02
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, channels=1, num_layers=1, num_neighbors=1, half_life=1, walk_length=2)
        check_whole_numbers(self, context_size=1, num_negatives=0, num_walks=1, first_steps=0, steps=0)
        check_numbers(self, ("learning_rate",), least=0)


@dataclass(frozen=True, eq=False)
class LongTermEncoder:
    """A node-feature encoder of one node type in the long-term graph, beyond the paper.

    Every node of a sampled subgraph is encoded as of the day's start, with gradient where the encoder learns.
    One whose parameters take no gradient encodes all nodes once a day.

    Attributes:
        encoder: learns with the module, and so by the loss on walks; ``requires_grad_(False)`` freezes it.
        reader: of its requests and fields, on a graph with the rows of the long-term graph.

    """

    encoder: NodeEncoder[Any]
    reader: InputReader

    @property
    def learns(self) -> bool:
        """Whether any of its parameters takes a gradient."""
        return any(parameter.requires_grad for parameter in self.encoder.parameters())

    def encode(self, node: Int64[Tensor, " num_nodes"], as_of: int) -> Tensor:
        """Return the vectors of nodes as of a time, on the nodes' device; (num_nodes, out_channels)."""
        place = node.to(self.reader.graph.device)
        inputs = self.reader.read(place, torch.full_like(place, as_of))
        vectors: Tensor = self.encoder(self.encoder.prepare(inputs).to(node.device))
        return vectors

    @torch.no_grad()
    def encode_in_pieces(self, node: Int64[Tensor, " num_nodes"], as_of: int) -> Tensor:
        """Return the same without a gradient, some nodes at a time."""
        return torch.cat([self.encode(some, as_of) for some in node.split(ENCODED_AT_ONCE)])


@dataclass(frozen=True, eq=False)
class LongTermSnapshots:
    """The vectors of all nodes as of the start of each day; the last row of a table is for unseen IDs.

    Attributes:
        time: starts of the days, ascending.
        vectors: by node type.

    """

    time: Int64[Tensor, " num_days"]
    vectors: dict[NodeType, Float32[Tensor, "num_days _ channels"]]

    def look_up(
        self, node_type: NodeType, node: Int64[Tensor, " num_queries"], time: Int64[Tensor, " num_queries"]
    ) -> Float32[Tensor, "num_queries channels"]:
        """Return the vector of each node in the last snapshot at or before the query's time.

        A snapshot of time d holds edges before d only, so it may be read at d itself.

        Raises:
            ValueError: a query is earlier than the first snapshot.

        """
        day = torch.searchsorted(self.time, time, right=True) - 1
        if len(day) and int(day.min()) < 0:
            raise ValueError(
                f"the first long-term snapshot is of {int(self.time[0])}, a query is of {int(time.min())}: "
                "train from an earlier day on"
            )
        return self.vectors[node_type][day, node]


def train_long_term(
    csrs: Mapping[EdgeType, TemporalCSR],
    num_nodes: Mapping[NodeType, int],
    days: Sequence[int],
    config: LongTermConfig,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
    encoders: Mapping[NodeType, LongTermEncoder] | None = None,
) -> tuple[LongTermSnapshots, list[float]]:
    """Train day by day and return the snapshots, and the mean loss of each day.

    Args:
        csrs: the long-term graph, both directions; edges at or after a day's start are not seen on it.
        num_nodes: rows of each node type's table, one more than the graph's nodes for unseen IDs.
        days: start of each day, ascending.
        config: sizes and steps.
        device: where the module is trained; the CSRs must lie there.
        checkpoint: written after each day, and resumed from.
        on_step: called with (steps done, steps in all).
        encoders: of node types whose nodes have an encoder's vectors beside their embeddings. They read what
            came before a day. One that was pre-trained on later days brings what it learned there into the
            snapshots of earlier ones: pre-train it on what came before the first.

    Raises:
        ValueError: the days do not rise, or an encoder or its reader is of another node type.

    """
    if list(days) != sorted(set(days)):
        raise ValueError(f"days must be ascending and distinct, got {list(days)}")
    csrs = pool_edges(csrs)
    torch.manual_seed(config.random_seed)
    vectors_of = _EncodedNodes({} if encoders is None else encoders, num_nodes)
    model = LongTermGraph(
        num_nodes,
        channels=config.channels,
        num_layers=config.num_layers,
        self_term=config.self_term,
        encoders={name: one.encoder for name, one in vectors_of.encoders.items()},
    ).to(device)
    for name, one in vectors_of.encoders.items():
        one.reader.check_node_type(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    kept: dict[NodeType, list[Tensor]] = {name: [] for name in num_nodes}
    losses: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        kept = {name: list(state["vectors"][name].cpu()) for name in num_nodes}
    total = config.first_steps + (len(days) - 1) * config.steps
    for index in range(len(losses), len(days)):
        num_steps = config.steps if index else config.first_steps
        done = config.first_steps + (index - 1) * config.steps if index else 0
        losses.append(0.0)
        for step in range(num_steps):
            loss = _step(model, optimizer, csrs, days[index], config, vectors_of, epoch=done + step)
            losses[-1] += loss / num_steps
            if on_step is not None:
                on_step(done + step + 1, total)
        for name, vectors in _encode(model, csrs, num_nodes, days[index], config, vectors_of).items():
            kept[name].append(vectors.cpu())
        if checkpoint is not None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "losses": losses,
                "vectors": {name: torch.stack(rows) for name, rows in kept.items()},
            }
            save_checkpoint(checkpoint, state)
    snapshots = {name: torch.stack(rows) for name, rows in kept.items()}
    return LongTermSnapshots(torch.tensor(list(days)), snapshots), losses


def pool_edges(csrs: Mapping[EdgeType, TemporalCSR]) -> dict[EdgeType, TemporalCSR]:
    """One edge type for each pair of node types, with the edges of all: "all behaviours as edges".

    The long-term graph does not tell behaviours apart, so its neighbours are drawn from all of them together.
    """
    pooled = {}
    for source, destination in dict.fromkeys((edge_type[0], edge_type[2]) for edge_type in csrs):
        parts = [csr.compact() for edge_type, csr in csrs.items() if edge_type[::2] == (source, destination)]
        late = any(csr.available_time is not None for csr in parts)
        known = [csr.edge_time if csr.available_time is None else csr.available_time for csr in parts]
        pooled[source, "any", destination] = TemporalCSR.from_edge_index(
            torch.stack(
                [
                    torch.cat([csr.row_of_edge() for csr in parts]),
                    torch.cat([csr.col.long() for csr in parts]),
                ]
            ),
            torch.cat([csr.edge_time for csr in parts]),
            num_rows=parts[0].num_rows,
            num_cols=parts[0].num_cols,
            row="source",
            available_time=torch.cat(known) if late else None,
        )
    return pooled


def _step(
    model: LongTermGraph,
    optimizer: torch.optim.Optimizer,
    csrs: Mapping[EdgeType, TemporalCSR],
    as_of: int,
    config: LongTermConfig,
    vectors_of: "_EncodedNodes",
    *,
    epoch: int,
) -> float:
    """One gradient step of equation (8) on fresh walks; 0 where the graph has no edge yet."""
    device = next(model.parameters()).device
    generator = torch.Generator(device=device)
    generator.manual_seed(config.random_seed * 1_000_003 + epoch)
    node_types = sorted(model.embedding)
    sizes = {name: cast(nn.Embedding, model.embedding[name]).num_embeddings for name in node_types}
    offset = {name: sum(sizes[other] for other in node_types[:i]) for i, name in enumerate(node_types)}
    degree = torch.cat([_degree(csrs, name, sizes[name], as_of) for name in node_types])
    if not bool(degree.any()):
        return 0.0
    walks = []
    start = torch.multinomial(degree, config.num_walks, replacement=True, generator=generator)
    for name in node_types:
        here = start[(start >= offset[name]) & (start < offset[name] + sizes[name])] - offset[name]
        time = torch.full_like(here, as_of)
        found = random_walks(csrs, here, config.walk_length, start_type=name, as_of=time, generator=generator)
        walks.append((found.joint_id(offset), found.mask))
    pair = walk_pairs(
        torch.cat([w for w, _ in walks]), torch.cat([m for _, m in walks]), context_size=config.context_size
    )
    # skip-gram's negatives: nodes by their number of edges to the power 3/4
    num_drawn = pair.shape[1] * config.num_negatives
    negative = pair.new_zeros(0)
    if num_drawn:  # torch refuses to draw none
        negative = torch.multinomial(degree**0.75, num_drawn, replacement=True, generator=generator)
    negative = negative.view(pair.shape[1], config.num_negatives)
    row, inverse = torch.cat([pair.flatten(), negative.flatten()]).unique(return_inverse=True)
    seeds = {}
    for name in node_types:
        node = row[(row >= offset[name]) & (row < offset[name] + sizes[name])] - offset[name]
        seeds[name] = node
    model.train()
    vectors = _forward(model, csrs, seeds, as_of, config, vectors_of, epoch=epoch)
    x = torch.cat([vectors[name] for name in node_types])
    num_pairs = pair.shape[1]
    loss = neighbor_similarity_loss(
        x, inverse[: 2 * num_pairs].view(2, num_pairs), inverse[2 * num_pairs :].view_as(negative)
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def _forward(
    model: LongTermGraph,
    csrs: Mapping[EdgeType, TemporalCSR],
    node: Mapping[NodeType, Tensor],
    as_of: int,
    config: LongTermConfig,
    vectors_of: "_EncodedNodes",
    *,
    epoch: int,
) -> dict[NodeType, Tensor]:
    """Vectors of distinct nodes, in the given order, from neighbours sampled before ``as_of``."""
    sampler = MultiHopSampler(csrs, [config.num_neighbors] * config.num_layers, strategy=_strategy(config))
    seeds = {name: (ids, torch.full_like(ids, as_of)) for name, ids in node.items()}
    subgraph = sampler.sample(seeds, epoch=epoch)
    neighbors = {name: merge_neighbors(subgraph, name, list(csrs)) for name in SOURCE_TYPE}
    encoded = vectors_of(subgraph.node, as_of)
    vectors: dict[NodeType, Tensor] = model(subgraph.node, neighbors, subgraph.num_nodes_after_hop, encoded)
    return {name: vectors[name][subgraph.seed_index[name]] for name in node}


@torch.no_grad()
def _encode(
    model: LongTermGraph,
    csrs: Mapping[EdgeType, TemporalCSR],
    num_nodes: Mapping[NodeType, int],
    as_of: int,
    config: LongTermConfig,
    vectors_of: "_EncodedNodes",
) -> dict[NodeType, Tensor]:
    """Vectors of all nodes as of a day. The row of unseen IDs has no edges: it is its own embedding's."""
    device = next(model.parameters()).device
    known = {name: torch.arange(count - 1, device=device) for name, count in num_nodes.items()}
    # more neighbours than in training: the snapshot is taken once a day, and less noise is better
    wide = replace(config, num_neighbors=max(config.num_neighbors, 30))
    model.eval()
    vectors = _forward(model, csrs, known, as_of, wide, vectors_of, epoch=0)
    return {name: torch.cat([table, torch.zeros_like(table[:1])]) for name, table in vectors.items()}


class _EncodedNodes:
    """The encoders' vectors of a subgraph's nodes; a frozen encoder's of all nodes, once a day."""

    def __init__(
        self, encoders: Mapping[NodeType, LongTermEncoder], num_nodes: Mapping[NodeType, int]
    ) -> None:
        self.encoders, self.num_nodes = encoders, num_nodes
        self.of_day: dict[NodeType, tuple[int, Tensor]] = {}

    def __call__(self, node: Mapping[NodeType, Tensor], as_of: int) -> dict[NodeType, Tensor]:
        found = {}
        for name, one in self.encoders.items():
            if one.learns:
                encode = one.encode if torch.is_grad_enabled() else one.encode_in_pieces
                found[name] = encode(node[name], as_of)
                continue
            day, vectors = self.of_day.get(name, (None, node[name]))
            if day != as_of:
                every = torch.arange(self.num_nodes[name], device=node[name].device)
                vectors = one.encode_in_pieces(every, as_of)
                self.of_day[name] = as_of, vectors
            found[name] = vectors[node[name]]
        return found


def _strategy(config: LongTermConfig) -> Strategy:
    if config.strategy == "recency":
        if config.half_life is None:
            raise ValueError("strategy 'recency' needs a half_life, in the events' unit of time")
        return partial(
            WeightedNeighborSampler,
            weight="recency",
            half_life=float(config.half_life),
            random_seed=config.random_seed,
        )
    return partial(UniformNeighborSampler, random_seed=config.random_seed)


def _degree(csrs: Mapping[EdgeType, TemporalCSR], node_type: NodeType, size: int, as_of: int) -> Tensor:
    """Count the visible edges of each node of a type, over all edge types into it; 0 for unseen IDs."""
    total = None
    for (_, _, destination), csr in csrs.items():
        if destination == node_type:
            node = torch.arange(csr.num_rows, device=csr.device)
            count = count_edges(csr, node, torch.full_like(node, as_of))
            total = count if total is None else total + count
    if total is None:
        raise ValueError(f"no edge type leads into {node_type!r}")
    return torch.nn.functional.pad(total, (0, size - len(total))).float()
