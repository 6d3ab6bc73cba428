"""Compiled loops of the layers on the CPU: sums over bags of table rows, and graph attention.

torch's own backward passes of ``embedding`` and ``embedding_bag`` sort their indices or visit rows one call
at a time, which costs several times the arithmetic. Everything here runs in one thread and in a fixed order.

Axis letters: D bags or destination nodes, K slots of one, N rows of a table, S source nodes, H heads, C
channels, A edge attributes.
"""

import numpy as np

from graphrec.compiling import compiled


@compiled
def sum_bags(index: np.ndarray, table: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[d] = sum_k weight[d, k] * table[index[d, k]]; ``out`` comes in as zeros."""
    num_bags, bag_size = index.shape
    channels = table.shape[1]
    for d in range(num_bags):
        for k in range(bag_size):
            share = weight[d, k]
            if share != 0:
                row = index[d, k]
                for c in range(channels):
                    out[d, c] += share * table[row, c]


@compiled
def scatter_bags(index: np.ndarray, x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[n] = sum of weight[d, k] * x[d] over the slots with index[d, k] = n; ``out`` comes in as zeros."""
    num_bags, bag_size = index.shape
    channels = x.shape[1]
    for d in range(num_bags):
        for k in range(bag_size):
            share = weight[d, k]
            if share != 0:
                row = index[d, k]
                for c in range(channels):
                    out[row, c] += share * x[d, c]


@compiled
def bag_products(index: np.ndarray, x: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """out[d, k] = <x[d], table[index[d, k]]>."""
    num_bags, bag_size = index.shape
    channels = table.shape[1]
    for d in range(num_bags):
        for k in range(bag_size):
            row = index[d, k]
            total = x[d, 0] * 0
            for c in range(channels):
                total += x[d, c] * table[row, c]
            out[d, k] = total


@compiled
def number_distinct(index: np.ndarray, place: np.ndarray, row: np.ndarray, local: np.ndarray) -> int:
    """Count the distinct values of ``index`` (D, K), and number them from 0 in rising order.

    ``place`` (N,) comes in as -1; ``row`` gets the values, ``local`` (D, K) the numbers.
    """
    num_bags, bag_size = index.shape
    for d in range(num_bags):
        for k in range(bag_size):
            place[index[d, k]] = 0
    count = 0
    for n in range(len(place)):
        if place[n] == 0:
            place[n] = count
            row[count] = n
            count += 1
    for d in range(num_bags):
        for k in range(bag_size):
            local[d, k] = place[index[d, k]]
    return count


@compiled
def attend(
    logit: np.ndarray,
    source_logit: np.ndarray,
    source: np.ndarray,
    neighbor: np.ndarray,
    mask: np.ndarray,
    edge_attr: np.ndarray,
    edge_weight: np.ndarray,
    slope: float,
    out: np.ndarray,
    pooled: np.ndarray,
    alpha: np.ndarray,
    is_negative: np.ndarray,
) -> None:
    """Softmax over a node's neighbours, and the sums that it weighs; outputs come in as zeros.

    logit (D, H), source_logit (S, H), source (S, H, C), edge_attr (D, K, A), edge_weight (H, A) give out
    (D, H, C), pooled (D, H, A), alpha (D, K, H), and where the logit was below zero.
    """
    num_destinations, num_neighbors = neighbor.shape
    num_heads, channels = source.shape[1:]
    num_attributes = edge_attr.shape[2]
    for d in range(num_destinations):
        for h in range(num_heads):
            largest = -np.inf
            for k in range(num_neighbors):
                if mask[d, k]:
                    value = logit[d, h] + source_logit[neighbor[d, k], h]
                    for a in range(num_attributes):
                        value += edge_attr[d, k, a] * edge_weight[h, a]
                    if value < 0:
                        value *= slope
                        is_negative[d, k, h] = True
                    alpha[d, k, h] = value
                    largest = max(largest, value)
            total = logit[d, h] * 0
            for k in range(num_neighbors):
                if mask[d, k]:
                    value = np.exp(alpha[d, k, h] - largest)
                    alpha[d, k, h] = value
                    total += value
            for k in range(num_neighbors):
                if mask[d, k]:
                    share = alpha[d, k, h] / total
                    alpha[d, k, h] = share
                    row = neighbor[d, k]
                    for c in range(channels):
                        out[d, h, c] += share * source[row, h, c]
                    for a in range(num_attributes):
                        pooled[d, h, a] += share * edge_attr[d, k, a]


@compiled
def attend_backward(
    gradient: np.ndarray,
    pooled_gradient: np.ndarray,
    source: np.ndarray,
    neighbor: np.ndarray,
    mask: np.ndarray,
    edge_attr: np.ndarray,
    slope: float,
    alpha: np.ndarray,
    is_negative: np.ndarray,
    logit_gradient: np.ndarray,
    source_logit_gradient: np.ndarray,
    source_gradient: np.ndarray,
    edge_weight_gradient: np.ndarray,
) -> None:
    """Gradients of :func:`attend`'s inputs from those of ``out`` and ``pooled``; they come in as zeros."""
    num_destinations, num_neighbors = neighbor.shape
    num_heads, channels = source.shape[1:]
    num_attributes = edge_attr.shape[2]
    share_gradient = np.zeros(num_neighbors, dtype=source.dtype)
    for d in range(num_destinations):
        for h in range(num_heads):
            mean = gradient[d, h, 0] * 0
            for k in range(num_neighbors):
                if mask[d, k]:
                    row, share = neighbor[d, k], alpha[d, k, h]
                    product = mean * 0
                    for c in range(channels):
                        product += gradient[d, h, c] * source[row, h, c]
                        source_gradient[row, h, c] += share * gradient[d, h, c]
                    for a in range(num_attributes):
                        product += pooled_gradient[d, h, a] * edge_attr[d, k, a]
                    share_gradient[k] = product
                    mean += share * product
            for k in range(num_neighbors):
                if mask[d, k]:
                    value = alpha[d, k, h] * (share_gradient[k] - mean)
                    if is_negative[d, k, h]:
                        value *= slope
                    logit_gradient[d, h] += value
                    source_logit_gradient[neighbor[d, k], h] += value
                    for a in range(num_attributes):
                        edge_weight_gradient[h, a] += value * edge_attr[d, k, a]
