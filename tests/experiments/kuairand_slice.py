"""A slice of the embedded KuaiRand-Pure as a data folder of its own: the most active users, every item."""

import gzip
import importlib.resources

import polars as pl

from graph_builders.datasets.kuairand import EARLY_FILE, ITEM_FILE, LOG_FILE, USER_FILE

FOLDER = importlib.resources.files("graph_builders.datasets") / "kuairand_pure"
NUM_USERS = 120


def sliced_log():
    """Rows of the users with the most rows."""
    log = pl.read_parquet(FOLDER / LOG_FILE)
    count = log["user_id"].value_counts().sort("count", "user_id", descending=True)
    return log.filter(pl.col("user_id").is_in(count["user_id"].head(NUM_USERS).to_list()))


def add_row(log, **values):
    """The log with one more row, like its first where ``values`` does not say otherwise."""
    row = log.head(1).with_columns(
        pl.lit(value).cast(log.schema[name]).alias(name) for name, value in values.items()
    )
    return pl.concat([log, row])


def write_slice(folder, log):
    """Write ``log`` and the tables of the slice's users as a folder that ``load_inputs`` reads."""
    folder.mkdir(parents=True)
    users = pl.col("user_id").is_in(sliced_log()["user_id"].unique().to_list())
    log.write_parquet(folder / LOG_FILE)
    pl.read_parquet(FOLDER / EARLY_FILE).filter(users).write_parquet(folder / EARLY_FILE)
    table = pl.read_csv(FOLDER / USER_FILE).filter(users)
    (folder / USER_FILE).write_bytes(gzip.compress(table.write_csv().encode()))
    (folder / ITEM_FILE).write_bytes((FOLDER / ITEM_FILE).read_bytes())
    return str(folder)
