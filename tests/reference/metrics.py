"""Slow metrics written from their definitions, pair by pair and row by row."""

import itertools
import math


def auc(label, score):
    """Share of (click, other) pairs that the click wins, a tie counting half."""
    clicks = [s for y, s in zip(label, score, strict=True) if y == 1]
    others = [s for y, s in zip(label, score, strict=True) if y == 0]
    if not clicks or not others:
        return math.nan
    won = sum((c > o) + 0.5 * (c == o) for c in clicks for o in others)
    return won / (len(clicks) * len(others))


def rows_by_group(group):
    rows = {}
    for row, key in enumerate(group):
        rows.setdefault(key, []).append(row)
    return rows


def gauc(label, score, group, weight):
    total = weighted = 0.0
    rows_left_out = groups_left_out = 0
    for rows in rows_by_group(group).values():
        labels = [label[row] for row in rows]
        value = auc(labels, [score[row] for row in rows])
        if math.isnan(value):
            rows_left_out += len(rows)
            groups_left_out += 1
            continue
        group_weight = {"impressions": len(rows), "clicks": sum(labels), "groups": 1}[weight]
        weighted += group_weight * value
        total += group_weight
    return (weighted / total if total else math.nan), rows_left_out, groups_left_out


def expected_calibration_error(label, score, num_bins, strategy):
    """Assign each row to a bin by hand: ``[lower, upper)``, the last one closed."""
    ranked = sorted(score)
    if strategy == "width":
        lower = [b / num_bins for b in range(num_bins)]
    else:
        # the b/num_bins quantile: the smallest score with at least that share of rows at or below it
        lower = [ranked[max(0, math.ceil(len(ranked) * b / num_bins - 1e-9) - 1)] for b in range(num_bins)]
    bins = {}
    for y, s in zip(label, score, strict=True):
        bins.setdefault(max(edge for edge in lower if edge <= s), []).append((y, s))
    error = 0.0
    for rows in bins.values():
        error += abs(sum(s for _, s in rows) - sum(y for y, _ in rows))
    return error / len(label)


def delong_variance(label, score_a, score_b):
    """Variance of the difference of two AUCs from all pairs (DeLong et al., 1988, equations 4 to 6)."""

    def win(c, o):
        return (c > o) + 0.5 * (c == o)

    clicks = [row for row, y in enumerate(label) if y == 1]
    others = [row for row, y in enumerate(label) if y == 0]
    by_click = [
        sum(win(score_a[c], score_a[o]) - win(score_b[c], score_b[o]) for o in others) / len(others)
        for c in clicks
    ]
    by_other = [
        sum(win(score_a[c], score_a[o]) - win(score_b[c], score_b[o]) for c in clicks) / len(clicks)
        for o in others
    ]

    def variance_of_mean(values):
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)

    return variance_of_mean(by_click) + variance_of_mean(by_other)


def holm(p_values):
    """Adjusted p of a test: the greatest of (tests still in play) * p over the tests at or before it."""
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    for rank, i in enumerate(ranked):
        adjusted[i] = min(
            1.0, max((len(p_values) - r) * p_values[j] for r, j in enumerate(ranked[: rank + 1]))
        )
    return adjusted


def average_precision(label, score):
    """Sum over distinct scores, descending, of precision times the recall that this score adds."""
    if not sum(label):
        return math.nan
    total = recall_before = 0.0
    for threshold in sorted(set(score), reverse=True):
        retrieved = [y for y, s in zip(label, score, strict=True) if s >= threshold]
        recall = sum(retrieved) / sum(label)
        total += (recall - recall_before) * sum(retrieved) / len(retrieved)
        recall_before = recall
    return total


def mean_over_orders(label, score, figure):
    """Mean of ``figure(labels from the top)`` over all orders of the rows in which no score rises."""
    found = []
    for order in itertools.permutations(range(len(label))):
        ranked = [score[row] for row in order]
        if all(above >= below for above, below in itertools.pairwise(ranked)):
            found.append(figure([label[row] for row in order]))
    return sum(found) / len(found)


def ndcg(ranked_labels, k):
    def gain(labels):
        return sum(y / math.log2(place + 2) for place, y in enumerate(labels[:k]))

    return gain(ranked_labels) / gain(sorted(ranked_labels, reverse=True))


def reciprocal_rank(ranked_labels):
    return 1 / (ranked_labels.index(1) + 1)


def hit(ranked_labels, k):
    return float(any(ranked_labels[:k]))


def log_loss_of_row(label, score, epsilon):
    clipped = min(max(score, epsilon), 1 - epsilon)
    return -math.log(clipped if label else 1 - clipped)


def group_sums(label, score, part, k):
    """Sums over the groups of one cluster, by name of the column."""
    counts = ["num_groups", "num_rows", "num_clicks", "groups_left_out", "rows_left_out"]
    ranked = ["num_ranked_groups", "rows_not_ranked", "ndcg", "reciprocal_rank", "hit"]
    total = dict.fromkeys(counts + ranked, 0.0)
    for weight in ("impressions", "clicks", "groups"):
        total[f"auc_{weight}"] = total[f"weight_{weight}"] = 0.0
    for rows in rows_by_group(part).values():
        labels, scores = [int(label[row]) for row in rows], [float(score[row]) for row in rows]
        total["num_groups"] += 1
        total["num_rows"] += len(rows)
        total["num_clicks"] += sum(labels)
        area = auc(labels, scores)
        if math.isnan(area):
            total["groups_left_out"] += 1
            total["rows_left_out"] += len(rows)
        else:
            for weight, amount in (("impressions", len(rows)), ("clicks", sum(labels)), ("groups", 1)):
                total[f"auc_{weight}"] += amount * area
                total[f"weight_{weight}"] += amount
        if not any(labels):
            total["rows_not_ranked"] += len(rows)
            continue
        total["num_ranked_groups"] += 1
        total["ndcg"] += mean_over_orders(labels, scores, lambda ranked: ndcg(ranked, k))
        total["reciprocal_rank"] += mean_over_orders(labels, scores, reciprocal_rank)
        total["hit"] += mean_over_orders(labels, scores, lambda ranked: hit(ranked, k))
    return total
