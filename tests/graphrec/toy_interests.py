"""A small shop whose users keep to one group of items: what item embeddings and SMEN are to find out."""

import polars as pl
import torch

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation

DAY = 86_400
BUY = Relation("shop", "buy").reverse_edge_type
START = 365 * DAY  # 1971-01-01
NUM_GROUPS, USERS_EACH, ITEMS_EACH, MONTHS = 3, 8, 10, 12
END = START + MONTHS * 30 * DAY


def shop(*, change_from=None, items_each=ITEMS_EACH, random_seed=0):
    """Every month each user buys six items of the group ``user % 3`` within two days.

    Item i is of the group ``i % 3``; its text has a word of its own and one of a few that all groups share,
    so that only what is bought together tells the group. With ``change_from``, all events from then on are
    of other items.
    """
    num_users, num_items = NUM_GROUPS * USERS_EACH, NUM_GROUPS * items_each
    generator = torch.Generator().manual_seed(random_seed)
    user = torch.arange(num_users).repeat_interleave(6 * MONTHS)
    month = torch.arange(MONTHS).repeat_interleave(6).repeat(num_users)
    item = user % NUM_GROUPS + NUM_GROUPS * torch.randint(items_each, (len(user),), generator=generator)
    trip = torch.randint(24, (num_users, MONTHS), generator=generator).repeat_interleave(6, dim=1).flatten()
    time = START + (month * 30 + trip) * DAY + torch.randint(2 * DAY, (len(user),), generator=generator)
    if change_from is not None:
        item = torch.where(time >= change_from, (item + 1) % num_items, item)
    events = pl.DataFrame({"user_id": user.numpy(), "item_id": item.numpy(), "time": time.numpy()})
    texts = [f"Thing{number} {('red', 'blue')[number % 2]}" for number in range(num_items)]
    return build_behavior_graph(
        read_events(
            events, schema=EventSchema(time_bounds=None, default_behavior="buy", default_domain="shop")
        ),
        user_table=pl.DataFrame({"user_id": range(num_users)}),
        item_table=pl.DataFrame(
            {"item_id": range(num_items), "genre": [f"g{number % NUM_GROUPS}" for number in range(num_items)]}
        ),
        texts={"item": pl.DataFrame({"item_id": range(num_items), "text": texts})},
    )


def gap(vectors, group):
    """Mean cosine of two rows of one group minus that of two groups."""
    x = torch.nn.functional.normalize(vectors, dim=1)
    cosine, same = x @ x.T, group[:, None] == group
    others = ~torch.eye(len(x), dtype=torch.bool)
    return float(cosine[same & others].mean() - cosine[~same].mean())
