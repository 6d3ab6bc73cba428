"""Users of four kinds, told by channel and hour of their heatmaps, and the tasks that ask for the kinds."""

import torch

from graphrec.encoders.heatmap import HOURS, HeatmapChannel, Heatmaps
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.models.meta_profile import ProfileInputs, ProfileNetwork
from samplers.tables import with_zero
from tests.graphrec.encoders.toy_heatmaps import BUY, encoding_of

NUM_DAYS, EVENTS = 14, 8
CHANNELS = (HeatmapChannel(name="events"), HeatmapChannel(name="bought", edge_types=(BUY,)))
# which kinds are positive: all ways to part four kinds but the last, which is the unseen target
SOURCE_TASKS = ((0,), (1,), (2,), (3,), (0, 1), (0, 2))
TARGET = (0, 3)


def toy_profile(seed=0, *, out_channels=16, demographics=None):
    torch.manual_seed(seed)
    levels = narrow_levels(LEVELS[NUM_DAYS], 8)
    cnn = HeatmapCNN(len(CHANNELS), NUM_DAYS, levels=levels)
    encoder = HeatmapEncoder(encoding_of(NUM_DAYS, CHANNELS), cnn)
    return ProfileNetwork({"shopping": encoder}, demographics=demographics, out_channels=out_channels)


def toy_users(num_users=300, seed=0):
    """Inputs and kinds: kind k acts in channel k % 2, at night or by day, on random days."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(4, (num_users,), generator=generator)
    user = torch.arange(num_users).repeat_interleave(EVENTS)
    day = torch.randint(NUM_DAYS, (len(user),), generator=generator)
    hour = torch.randint(3, (len(user),), generator=generator) + torch.where(kind[user] < 2, 3, 16)
    channel = kind[user] % 2
    key = (((user * NUM_DAYS + day) * HOURS + hour) * 2 + channel).unique()
    position = key // 2
    count = torch.bincount(position // HOURS // NUM_DAYS, minlength=num_users)
    heatmaps = Heatmaps(
        NUM_DAYS,
        2,
        with_zero(count.cumsum(0)),
        (position // HOURS % NUM_DAYS).short(),
        (position % HOURS).to(torch.int8),
        (key % 2).short(),
        torch.ones(len(key)),
    )
    none = torch.zeros(num_users, 0)
    return ProfileInputs({"shopping": heatmaps}, none, none.long()), kind


def labels_of_kinds(kind, tasks=SOURCE_TASKS, *, missing=0.3, seed=0):
    """1 where the kind is positive, NaN for a share of the rows."""
    label = torch.stack([torch.isin(kind, torch.tensor(task)) for task in tasks], dim=1).float()
    drop = torch.rand(label.shape, generator=torch.Generator().manual_seed(seed)) < missing
    return label.masked_fill(drop, torch.nan)
