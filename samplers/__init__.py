"""Leak-free samplers on temporal graphs: nodes, edge types and times, no users and no items.

The contract of every sampler: an edge is seen if ``edge_time < seed_time`` (``bound="strict"``) or
``edge_time <= seed_time`` ("inclusive"), if it is no older than ``window``, and if it was known by then where
the CSR has an ``available_time``. Ties in time are broken by edge id. Where fewer than K edges are visible,
``mask`` is False. A node reached at a later hop is queried at its seed's time, or the traversed edge's
(``next_hop_bound``). Draws are keyed by (random_seed, epoch, edge type, hop, node, time, slot) or come from
a ``torch.Generator``. Weights are as of the query's time. Queries come in any order, and no
sampler keeps a state.
"""

from samplers.checks import check_no_leak
from samplers.csr import TemporalCSR
from samplers.csr_files import CorruptedCSRError
from samplers.history import EventHistorySampler
from samplers.loader import NeighborBatch, NeighborLoader, SeedLoader
from samplers.multi_hop import MultiHopSampler
from samplers.negative import NegativeSampler
from samplers.neighbors import (
    EdgeType,
    EventHistory,
    HopEdges,
    NeighborSampler,
    NodeType,
    SampledNeighbors,
    SampledSubgraph,
)
from samplers.queries import Bound, Engine, count_edges
from samplers.random_numbers import keyed_bits, keyed_integers, keyed_uniform
from samplers.random_walk import RandomWalks, random_walks
from samplers.recent import RecentNeighborSampler
from samplers.uniform import UniformNeighborSampler
from samplers.weighted import WeightedNeighborSampler

__all__ = [
    "Bound",
    "CorruptedCSRError",
    "EdgeType",
    "Engine",
    "EventHistory",
    "EventHistorySampler",
    "HopEdges",
    "MultiHopSampler",
    "NegativeSampler",
    "NeighborBatch",
    "NeighborLoader",
    "NeighborSampler",
    "NodeType",
    "RandomWalks",
    "RecentNeighborSampler",
    "SampledNeighbors",
    "SampledSubgraph",
    "SeedLoader",
    "TemporalCSR",
    "UniformNeighborSampler",
    "WeightedNeighborSampler",
    "check_no_leak",
    "count_edges",
    "keyed_bits",
    "keyed_integers",
    "keyed_uniform",
    "random_walks",
]
