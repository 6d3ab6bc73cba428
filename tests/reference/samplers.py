"""Slow samplers written from the definitions: an edge is a record, a query looks at every edge."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    source: int
    destination: int
    time: int
    edge_id: int
    available_time: int
    weight: float = 1.0


def is_visible(edge, seed_time, bound="strict", window=None):
    if bound == "strict":
        seen = edge.time < seed_time and edge.available_time < seed_time
    else:
        seen = edge.time <= seed_time and edge.available_time <= seed_time
    return seen and (window is None or edge.time >= seed_time - window)


def visible(edges, seed, seed_time, bound="strict", window=None):
    """Edges into ``seed`` that a query may see, oldest first, ties by edge id."""
    seen = [e for e in edges if e.destination == seed and is_visible(e, seed_time, bound, window)]
    return sorted(seen, key=lambda e: (e.time, e.edge_id))


def recent(edges, seed, seed_time, num_neighbors, bound="strict", window=None):
    newest_first = visible(edges, seed, seed_time, bound, window)[::-1]
    return newest_first if num_neighbors == -1 else newest_first[:num_neighbors]


def multi_hop_tree(edges_of_type, num_neighbors, node_type, node, time, next_hop_bound, **options):
    """The recent neighbours of a node, theirs, and so on, as nested tuples."""
    if not num_neighbors:
        return (node_type, node, time, ())
    children = []
    for edge_type in sorted(edges_of_type):
        if edge_type[2] != node_type:
            continue
        for edge in recent(edges_of_type[edge_type], node, time, num_neighbors[0], **options):
            below = time if next_hop_bound == "seed" else edge.time
            tree = multi_hop_tree(
                edges_of_type, num_neighbors[1:], edge_type[0], edge.source, below, next_hop_bound, **options
            )
            children.append((edge_type, edge.edge_id, edge.time, tree))
    return (node_type, node, time, tuple(children))


def node2vec_walks(edges, start, num_steps, as_of, p, q, window=None):
    """Probability of each path of ``num_steps`` second-order steps, from the definition."""

    def neighbors(node):
        return [e.source for e in visible(edges, node, as_of, window=window)]

    def extend(path, previous, probability):
        if len(path) == num_steps:
            found[path] = found.get(path, 0.0) + probability
            return
        here = path[-1] if path else start
        weights = []
        for x in neighbors(here):
            if previous is None:
                weights.append(1.0)
            elif x == previous:
                weights.append(1 / p)
            else:
                weights.append(1.0 if x in neighbors(previous) else 1 / q)
        for x, weight in zip(neighbors(here), weights, strict=True):
            extend((*path, x), here, probability * weight / sum(weights))

    found = {}
    extend((), None, 1.0)
    return found
