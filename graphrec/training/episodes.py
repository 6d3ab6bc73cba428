"""N-way K-shot episodes over binary tasks (Meta-Profile Network, section 3.2), and few-shot prediction.

The paper's data point is a pair of a support set, K labelled examples for each of N classes, and a
mini-batch. Its tasks are binary, so here N counts tasks: an episode holds K examples of each class of each of
N tasks, and a prediction for a task is made over that task's own 2 K.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.losses import masked_multi_task_loss
from graphrec.models.meta_profile import Similarity
from samplers import keyed_uniform


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig:
    """Sizes of an episode.

    Attributes:
        num_ways: tasks (paper: 9).
        num_shots: examples of each class of a task (paper: 1).
        batch_size: rows of the mini-batch (paper: 32).
        random_seed: of all draws: an episode depends on it and its number alone.

    """

    num_ways: int = 9
    num_shots: int = 1
    batch_size: int = 32
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, num_ways=1, num_shots=1, batch_size=1)


@dataclass(frozen=True, eq=False)
class Episode:
    """A support set and a mini-batch, as rows of the training data.

    Attributes:
        task: the tasks.
        support: examples of each task: of class 0, then of class 1.
        batch: rows to predict, each once.

    """

    task: Int64[Tensor, " num_ways"]
    support: Int64[Tensor, "num_ways 2 num_shots"]
    batch: Int64[Tensor, " batch_size"]


class EpisodeSampler:
    """Draws episodes; episode n is the same whenever it is drawn.

    Args:
        label: 0 or 1, NaN where a row has no label of a task.
        config: sizes.
        user: of each row; default: each row is another's. A batch row of a user who is an example of a task
            has no label of it in the episode: the answer would be given away.

    Attributes:
        can_be_asked: whether a row of task and class can be in a batch with its label, (num_tasks, 2): not if
            its user is an example in every episode, as the one row of a class is.

    Raises:
        ValueError: fewer than ``num_ways`` tasks have ``num_shots`` examples of both classes, a label is
            neither 0, 1 nor NaN, or there is not one user a row.

    """

    def __init__(
        self,
        label: Float32[Tensor, "num_rows num_tasks"],
        config: EpisodeConfig,
        *,
        user: Int64[Tensor, " num_rows"] | None = None,
    ) -> None:
        if label.ndim != 2 or (user is not None and len(user) != len(label)):
            raise ValueError(
                "labels must be (num_rows, num_tasks), and there must be one user a row: got labels "
                f"{tuple(label.shape)} and users {None if user is None else tuple(user.shape)}"
            )
        self.label, self.config = label.cpu(), config
        self.user = torch.arange(len(label)) if user is None else user.cpu()
        classes = torch.stack([self.label == 0, self.label == 1])  # (2, rows, tasks)
        known = ~self.label.isnan()
        if not torch.equal(classes.any(dim=0), known):
            raise ValueError("labels must be 0 or 1, or NaN where there is none")
        self.is_example = classes.permute(2, 0, 1)  # (tasks, 2, rows)
        self.task = (self.is_example.sum(dim=2) >= config.num_shots).all(dim=1).nonzero().flatten()
        if len(self.task) < config.num_ways:
            raise ValueError(
                f"{len(self.task)} of {label.shape[1]} tasks have {config.num_shots} examples of each class, "
                f"an episode needs {config.num_ways}: take fewer ways or shots, or more labels"
            )
        self.row = known[:, self.task].any(dim=1).nonzero().flatten()
        positives, negatives = classes[1].sum(dim=0), classes[0].sum(dim=0)
        self.prior_logit = torch.log(positives / negatives)
        place = self.user.unique(return_inverse=True)[1]
        of_user = torch.zeros(*self.is_example.shape[:2], int(place.max()) + 1, dtype=torch.int64)
        of_user.index_add_(2, place, self.is_example.long())
        # asked while as many examples of each class as an episode needs are other users'
        enough = (of_user.sum(dim=2, keepdim=True) - of_user >= config.num_shots).all(dim=1, keepdim=True)
        self.can_be_asked = ((of_user > 0) & enough).any(dim=2)

    def episode(self, number: int) -> Episode:
        """Draw an episode: tasks, examples and rows without replacement, each as likely as another."""
        config = self.config
        draw = keyed_uniform(config.random_seed, "episode task", number, self.task)
        task = self.task[draw.argsort()[: config.num_ways]].sort().values
        candidates = self.is_example[task]
        row = torch.arange(candidates.shape[2])
        draw = keyed_uniform(
            config.random_seed, "episode support", number, task[:, None, None], torch.arange(2)[:, None], row
        )
        support = draw.masked_fill(~candidates, -1.0).topk(config.num_shots, dim=2).indices
        draw = keyed_uniform(config.random_seed, "episode batch", number, self.row)
        batch = self.row[draw.argsort()[: config.batch_size]]
        return Episode(task, support, batch)

    def batch_label(self, episode: Episode) -> Float32[Tensor, "batch_size num_ways"]:
        """Return the labels of the batch's rows, NaN also where the row's user is an example of the task."""
        label = self.label[episode.batch][:, episode.task]
        users = self.user[episode.support.flatten(1)]
        is_example = (self.user[episode.batch][:, None, None] == users).any(dim=2)
        return label.masked_fill(is_example, torch.nan)


def episode_loss(
    sampler: EpisodeSampler,
    episode: Episode,
    similarity: Similarity,
    batch: Float[Tensor, "batch_size channels"],
    support: Float[Tensor, "num_ways 2 num_shots channels"],
) -> Float[Tensor, ""]:
    """Return equation (1) over the tasks of an episode.

    An episode's examples are as many of each class, the rows of its batch are not. So the logit of the task's
    share of positives is added to the similarity-weighted sum's in the loss, where the paper says nothing:
    without it f learns above all that positives are rare, and forgets how to order the rows. A prediction
    from all labelled rows needs no such term, for the shares are in them.

    A task of which batches can hold one class alone adds 0: from it f would learn "always that class".

    Args:
        sampler: of the episode.
        episode: whose loss it is.
        similarity: f.
        batch: embeddings of the batch's rows.
        support: embeddings of the examples.

    """
    prior = sampler.prior_logit[episode.task].to(batch.device)
    logit = episode_logits(similarity, batch, support) + prior
    one_class = ~sampler.can_be_asked[episode.task].all(dim=1)
    label = sampler.batch_label(episode).masked_fill(one_class, torch.nan)
    return masked_multi_task_loss(logit, label.to(batch.device))


def episode_logits(
    similarity: Similarity,
    batch: Float[Tensor, "batch_size channels"],
    support: Float[Tensor, "num_ways 2 num_shots channels"],
) -> Float[Tensor, "batch_size num_ways"]:
    """Return the logit of each row for each task, over the task's own examples."""
    label = torch.tensor([0.0, 1.0], device=batch.device).repeat_interleave(support.shape[2])
    return torch.stack([similarity(batch, of_task.flatten(0, 1), label) for of_task in support], dim=1)


@torch.no_grad()
def predict_few_shot(
    similarity: Similarity,
    embedding: Float[Tensor, "num_queries channels"],
    support: Float[Tensor, "num_support channels"],
    label: Float[Tensor, " num_support"],
    *,
    max_pairs: int = 65_536,
) -> Float[Tensor, " num_queries"]:
    """Score rows for a task that was never trained on, from labelled examples alone: no gradient step.

    Args:
        similarity: f, left in evaluation mode.
        embedding: g of the rows.
        support: g of the examples, as many as there are.
        label: 0 or 1 of each.
        max_pairs: compared at once.

    Returns:
        Logits; their sigmoid is the similarity-weighted sum of the examples' labels. It moves with the
        shares of the classes among the examples; the order of the rows hardly does.

    Raises:
        ValueError: a class has no example, a label is neither 0 nor 1, or there is not one an example.

    """
    _check_examples(support, label)
    similarity.eval()
    support, label = similarity.condense(support, label)
    rows = embedding.split(max(max_pairs // len(support), 1))
    return torch.cat([embedding.new_zeros(0), *(similarity(part, support, label) for part in rows)])


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How f is adapted to a target task.

    Attributes:
        num_steps: of Adam; an episode each.
        learning_rate: of Adam.
        num_shots: examples of each class in an episode, fewer where a class has not twice as many.
        batch_size: rows of an episode.
        random_seed: of the episodes.

    """

    num_steps: int = 100
    learning_rate: float = 1e-3
    num_shots: int = 5
    batch_size: int = 64
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, num_steps=0, num_shots=1, batch_size=1)
        check_numbers(self, ("learning_rate",), least=0)


def adapt_similarity(
    similarity: Similarity,
    embedding: Float[Tensor, "num_rows channels"],
    label: Float32[Tensor, " num_rows"],
    config: AdaptConfig = AdaptConfig(),
    *,
    user: Int64[Tensor, " num_rows"] | None = None,
) -> Similarity:
    """Fit a copy of f to the few labelled rows of a target task, g kept: meta-testing of the paper.

    Embeddings are computed once, before. In an episode some rows are examples and others predicted, so that f
    learns what prediction asks of it. The one row of a class, or the rows of its one user, are always
    examples, and all predicted rows are of the other class: from these f would learn "always that class", so
    it is returned as it was. Two rows of each class, of users of their own, are enough to learn from.

    Args:
        similarity: as meta-training left it; not changed.
        embedding: g of the labelled rows.
        label: 0 or 1 of each.
        config: options.
        user: of each row, as in :class:`EpisodeSampler`.

    Returns:
        The adapted copy in evaluation mode.

    Raises:
        ValueError: a class has no example, a label is neither 0 nor 1, there is not one label or user a row,
            or f has weights and no row can ever be predicted from examples of other users: one row of each
            class, or one user in all.

    """
    _check_examples(embedding, label)
    adapted = copy.deepcopy(similarity).train()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    least = int(min((label == 0).sum(), (label == 1).sum()))
    episodes = EpisodeSampler(
        label[:, None],
        EpisodeConfig(
            num_ways=1,
            num_shots=max(min(config.num_shots, least // 2), 1),
            batch_size=config.batch_size,
            random_seed=config.random_seed,
        ),
        user=user,
    )
    can_be_asked = episodes.can_be_asked[0]
    if parameters and not bool(can_be_asked.any()):
        raise ValueError(
            f"no row can be predicted from examples of other users: there are {len(label)} rows, {least} of "
            f"the rarer class, of {len(episodes.user.unique())} users: predict without adapting f, or label "
            "more users"
        )
    if parameters and bool(can_be_asked.all()):
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
        for number in range(config.num_steps):
            episode = episodes.episode(number)
            optimizer.zero_grad(set_to_none=True)
            batch, support = embedding[episode.batch], embedding[episode.support]
            episode_loss(episodes, episode, adapted, batch, support).backward()
            optimizer.step()
    return adapted.eval()


def _check_examples(row: Tensor, label: Tensor) -> None:
    """Raise unless each row has a label of 0 or 1, and both occur."""
    if len(row) != len(label):
        raise ValueError(f"each row needs its label: got {len(row)} rows and {len(label)} labels")
    wrong = label[~((label == 0) | (label == 1))]
    if len(wrong):
        raise ValueError(
            f"examples must be labelled 0 or 1, got {wrong[0].item():g} ({len(wrong)} in all): leave such "
            "rows out"
        )
    missing = [value for value in (0, 1) if not bool((label == value).any())]
    if missing:
        raise ValueError(
            f"examples must be labelled 0 or 1, and both occur; there is none of {missing}: give at least "
            "one of each"
        )
