"""Online Retail of the UCI repository: two years of a British gift wholesaler's invoices and cancellations.

Chen, D.: Online Retail II (2009-2010, https://doi.org/10.24432/C5CG6D) and Online Retail (2010-2011,
https://doi.org/10.24432/C5BW33), both CC BY 4.0. Read as two Parquet files. Handled here:

- The files share 1 to 9 December 2010. The second file's lines of that time are cut: the first has codes.
- The second file has neither invoice numbers nor stock codes: its items are named by the code that the first
  file has for their description, or by the description where it has none; a basket is a customer's minute.
- Times are the shop's own clock: taken for British local time, daylight saving included, and turned into UTC.
- Lines without a customer (a quarter) are nobody's behaviour: counted and left out.
- A line of a negative quantity is a return (a cancelled invoice begins with C in the first file).
- Postage, discounts, bank charges and the like are no products; a line without a price is no purchase.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from graph_builders.datasets.negatives import sample_impressions
from graph_builders.datasets.online_retail_keywords import keywords_of
from graph_builders.datasets.tables import DatasetTables
from graph_builders.datasets.text_files import raise_rows
from graph_builders.events import EventLog, EventLogError, EventSchema, read_events, read_table

TIME_ZONE = "Europe/London"
FIRST_FILE = "online_retail_II_2009_2010.parquet"
SECOND_FILE = "online_retail_2010_2011_no_invoice.parquet"
SERVICE_CODES = (
    "ADJUST", "ADJUST2", "AMAZONFEE", "B", "BANK CHARGES", "C2", "C3", "CRUK", "D", "DOT", "M", "POST", "S",
    "TEST001", "TEST002",
)  # fmt: skip
"""Stock codes of lines that are no product."""
SERVICE_DESCRIPTIONS = (
    "AMAZON FEE", "BANK CHARGES", "CARRIAGE", "CRUK COMMISSION", "DISCOUNT", "DOTCOM POSTAGE",
    "HIGH RESOLUTION IMAGE", "MANUAL", "NEXT DAY CARRIAGE", "POSTAGE", "SAMPLES", "THIS IS A TEST PRODUCT.",
)  # fmt: skip
"""Descriptions of such lines, in capitals: the second file has no codes."""

_REMEDY = (
    f"pass a folder with {FIRST_FILE} and {SECOND_FILE}, the two years of "
    "https://archive.ics.uci.edu/dataset/502/online+retail+ii and /352/online+retail as Parquet files"
)
# the columns that are read, and what they are called here
_FIRST_COLUMNS = {
    "Invoice": "basket_id",
    "StockCode": "item_id",
    "Description": "text",
    "Quantity": "quantity",
    "InvoiceDate": "local_time",
    "Price": "price",
    "Customer ID": "user_id",
    "Country": "country",
}
_SECOND_COLUMNS = {
    "Description": "text",
    "Quantity": "quantity",
    "InvoiceDate": "local_time",
    "UnitPrice": "price",
    "CustomerID": "user_id",
    "Country": "country",
}
_TEXT_COLUMNS = ("basket_id", "item_id", "text", "country")
_CITATION = (
    "Chen, D. (2012, 2015): Online Retail II and Online Retail, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5CG6D and https://doi.org/10.24432/C5BW33; Chen, Sain & Guo (2012): Data "
    "mining for the online retail industry"
)


@dataclass(frozen=True)
class _Lines:
    """Lines of a file with a customer, and what was counted on the way."""

    frame: pl.DataFrame
    num_lines: int
    num_cut: int
    num_anonymous: int


def load_online_retail(
    path: str | Path,
    *,
    service_lines: Literal["drop", "keep"] = "drop",
    unpaid_lines: Literal["drop", "keep"] = "drop",
    duplicates: Literal["drop", "keep"] = "drop",
    num_negatives: int = 0,
    random_seed: int = 0,
) -> DatasetTables:
    """Load the purchases and returns of two years.

    Args:
        path: the folder of the two Parquet files.
        service_lines: lines that are no product: ``SERVICE_CODES`` and ``SERVICE_DESCRIPTIONS``.
        unpaid_lines: lines with a price of 0.
        duplicates: lines that repeat an earlier one in all columns that are read.
        num_negatives: sampled for each purchase, uniformly over the products that anybody bought before. The
            set has no impressions: 0 leaves the impressions empty.
        random_seed: of the negatives.

    Returns:
        Tables with times in seconds, UTC, in order of time. Users are customers, by their number (Int64);
        items are strings, stock codes or descriptions. Behaviours, all "internal":

        - "purchase": a line of a positive quantity;
        - "return": a line of a negative one. What it returns is not known.

        Attributes: ``quantity`` (units, positive for both), ``price`` (pounds a unit), ``amount`` (pounds,
        their product), ``basket_id`` (string: the invoice; in the second file customer and time). The user
        table has the ``country`` of the customer's first line; five customers have two. The item table has
        ``source`` ("code" or "description") and ``keywords`` (kinds of products, see
        ``online_retail_keywords``); the text of an item is that of its first line. Context of impressions:
        local ``hour`` of the day. ``utc_offset_hours`` is that of winter; :func:`local_time` knows summer.

    Raises:
        EventLogError: the folder or a file is missing or damaged, lacks a column or has one of another type;
            a time cannot be parsed or does not exist on the local clock; a quantity is 0; a line with a
            customer has no item, no country, a price that is negative or no finite number, or a customer that
            is no whole number; or no line is left.
        ValueError: an option is unknown, or ``num_negatives`` is negative.

    """
    options = (("service_lines", service_lines), ("unpaid_lines", unpaid_lines), ("duplicates", duplicates))
    for name, value in options:
        if value not in ("drop", "keep"):
            raise ValueError(f"{name} must be 'drop' or 'keep', got {value!r}")
    if num_negatives < 0:
        raise ValueError(f"num_negatives must be 0 or more, got {num_negatives}")
    folder = Path(path)
    if not folder.is_dir():
        raise EventLogError(f"{folder}: no such folder: {_REMEDY}")
    first = _read_lines(folder / FIRST_FILE, _FIRST_COLUMNS)
    last_of_first = first.frame.select(pl.col("time").max()).item()
    second = _read_lines(folder / SECOND_FILE, _SECOND_COLUMNS, after=last_of_first)
    lines = _named_alike(first.frame, second.frame)
    is_service = pl.col("item_id").is_in(SERVICE_CODES) | pl.col("key").is_in(SERVICE_DESCRIPTIONS)
    num_service = lines.select(is_service.sum()).item()
    if service_lines == "drop":
        lines = lines.filter(~is_service)
    num_unpaid = lines.select((pl.col("price") == 0).sum()).item()
    if unpaid_lines == "drop":
        lines = lines.filter(pl.col("price") > 0)
    if lines.is_empty():
        raise EventLogError(f"{folder}: no line has a customer, a product and a price: {_REMEDY}")
    lines = lines.sort("time", maintain_order=True)
    log = _events(lines, str(folder), duplicates)
    all_impressions, how_sampled = _impressions(log, num_negatives, random_seed)
    items = lines.unique("item_id", keep="first", maintain_order=True).sort("item_id")
    returns = log.frame.select((pl.col("behavior").cast(pl.String) == "return").sum()).item()
    done = {"drop": "dropped", "keep": "kept"}
    num_lines, num_anonymous = (
        getattr(first, name) + getattr(second, name) for name in ("num_lines", "num_anonymous")
    )
    return DatasetTables(
        name="Online Retail (UCI)",
        events=log,
        impressions=all_impressions.drop("domain"),
        all_impressions=all_impressions,
        contexts=("hour",),
        user_table=lines.unique("user_id", keep="first", maintain_order=True)
        .select("user_id", "country")
        .sort("user_id"),
        item_table=items.select("item_id", "source", keywords_of(pl.col("text"))),
        text_tables={"item": items.select("item_id", "text")},
        licence="CC BY 4.0",
        citation=_CITATION,
        notes=(
            f"{second.num_cut} of {num_lines} lines are of the time that both files hold: cut from the "
            "second.",
            f"{num_anonymous} lines have no customer: left out.",
            f"{num_service} lines with a customer are no product (postage, discounts, ...): "
            f"{done[service_lines]}.",
            f"{num_unpaid} lines have a price of 0: {done[unpaid_lines]}.",
            f"{log.report.num_duplicates} lines repeat an earlier one: {done[duplicates]}.",
            f"{returns} of {len(log)} events are returns; what they return is not known.",
            f"{(items['source'] == 'description').sum()} of {items.height} items are named by their "
            "description, for the second file has no stock codes and the first does not know them.",
            f"Times are the shop's clock, taken for {TIME_ZONE} and turned into UTC.",
            how_sampled,
        ),
    )


def local_time(time: str | pl.Expr = "time") -> pl.Expr:
    """Return unix seconds as date-times of the shop's time zone, daylight saving included.

    >>> pl.DataFrame({"time": [1277990000]}).select(local_time().dt.strftime("%m-%d %H:%M")).item()
    '07-01 14:13'
    """
    column = pl.col(time) if isinstance(time, str) else time
    return pl.from_epoch(column, time_unit="s").dt.replace_time_zone("UTC").dt.convert_time_zone(TIME_ZONE)


# ---- parts ---------------------------------------------------------------------------------------


def _read_lines(path: Path, columns: dict[str, str], *, after: int | None = None) -> _Lines:
    """Read a file's lines with a customer, later than ``after``, checked and with one type a column."""
    if not path.is_file():
        raise EventLogError(f"{path}: no such file: {_REMEDY}")
    raw = read_table(path)
    missing = [name for name in columns if name not in raw.columns]
    if missing:
        raise EventLogError(f"{path}: columns {missing} are missing, there are {raw.columns}: {_REMEDY}")
    frame = raw.select(pl.col(name).alias(called) for name, called in columns.items())
    original = {called: name for name, called in columns.items()}
    for column in frame.columns:
        _check_type(frame[column], original[column], path, is_text=column in _TEXT_COLUMNS)
    frame = frame.with_row_index("row", offset=1).with_columns(
        _clean(pl.col(name)) for name in _TEXT_COLUMNS if name in frame.columns
    )
    frame = frame.with_columns(time=_unix_time(frame, path))
    kept = frame if after is None else frame.filter(pl.col("time") > after)
    known = kept.filter(pl.col("user_id").is_not_null())
    item = "item_id" if "item_id" in columns.values() else "text"
    for column in (item, "country", "quantity", "price"):
        _raise(known[column].is_null(), "is null", path, original[column], known, column)
    _raise(known["quantity"] == 0, "is 0", path, original["quantity"], known, "quantity")
    price = known["price"].cast(pl.Float64)
    _raise(
        ~(price.is_finite() & (price >= 0)), "is negative or no finite number",
        path, original["price"], known, "price",
    )  # fmt: skip
    user = known["user_id"].cast(pl.Int64, strict=False)
    _raise(
        user.is_null() | (user != known["user_id"]), "is no whole number",
        path, original["user_id"], known, "user_id",
    )  # fmt: skip
    lines = known.with_columns(user_id=user, price=price, quantity=pl.col("quantity").cast(pl.Float64))
    return _Lines(
        frame=lines.drop("row", "local_time"),
        num_lines=frame.height,
        num_cut=frame.height - kept.height,
        num_anonymous=kept.height - known.height,
    )


def _check_type(values: pl.Series, column: str, path: Path, *, is_text: bool) -> None:
    if column == "InvoiceDate":
        right, wanted = values.dtype == pl.String or isinstance(values.dtype, pl.Datetime), "times or text"
    elif is_text:
        right, wanted = values.dtype in (pl.String, pl.Categorical), "text"
    else:
        right, wanted = values.dtype.is_numeric(), "numbers"
    if not right:
        raise EventLogError(f"{path}: column {column!r} has type {values.dtype}, wanted {wanted}: {_REMEDY}")


def _clean(text: pl.Expr) -> pl.Expr:
    """Cut blanks off both ends and to one between words; an empty text is null."""
    clean = text.cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(clean != "").then(clean)


def _unix_time(frame: pl.DataFrame, path: Path) -> pl.Series:
    """Return the shop's clock as unix seconds; of an hour that comes twice, the first."""
    local = frame["local_time"]
    if local.dtype == pl.String:
        local = local.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    time = local.cast(pl.Datetime("us")).dt.replace_time_zone(
        TIME_ZONE, ambiguous="earliest", non_existent="null"
    )
    _raise(
        time.is_null(), f"is no time (2009-12-01 07:45:00) of {TIME_ZONE}", path, "InvoiceDate", frame,
        "local_time",
    )  # fmt: skip
    return time.dt.epoch("s")


def _raise(wrong: pl.Series, problem: str, path: Path, column: str, frame: pl.DataFrame, values: str) -> None:
    raise_rows(wrong, path, column, frame[values], "correct these lines", problem=problem, row=frame["row"])


def _named_alike(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Put the files below one another, the second's items named by the first's codes where it has them.

    A description that several codes have is the code's with most lines, the least of equal ones. ``text`` of
    a code without a description is the code.
    """
    first = first.with_columns(
        text=pl.col("text").fill_null(pl.col("item_id")), source=pl.lit("code")
    ).with_columns(key=pl.col("text").str.to_uppercase())
    second = second.with_columns(key=pl.col("text").str.to_uppercase())
    code = (
        first.group_by("key", "item_id")
        .len()
        .sort(["key", "len", "item_id"], descending=[False, True, False])
        .unique("key", keep="first", maintain_order=True)
        .select("key", "item_id")
    )
    named = second.join(code, on="key", how="left", maintain_order="left").with_columns(
        source=pl.when(pl.col("item_id").is_null()).then(pl.lit("description")).otherwise(pl.lit("code")),
        item_id=pl.col("item_id").fill_null(pl.col("key")),
        basket_id=pl.format("{}@{}", "user_id", "time"),
    )
    return pl.concat([first, named.select(first.columns)])


def _events(lines: pl.DataFrame, name: str, duplicates: Literal["drop", "keep"]) -> EventLog:
    schema = EventSchema(behavior="behavior", attributes=("quantity", "price", "amount", "basket_id"))
    units = pl.col("quantity").abs()
    frame = lines.select(
        "user_id", "item_id", "time", "basket_id", "price",
        behavior=pl.when(pl.col("quantity") > 0).then(pl.lit("purchase")).otherwise(pl.lit("return")),
        quantity=units,
        amount=units * pl.col("price"),
    )  # fmt: skip
    return read_events(frame, schema, duplicates=duplicates, name=name)


def _impressions(log: EventLog, num_negatives: int, random_seed: int) -> tuple[pl.DataFrame, str]:
    """Return labelled rows of purchases, and how they came about."""
    if num_negatives == 0:
        schema = {"user_id": pl.Int64, "item_id": pl.String, "time": pl.Int64, "label": pl.Float32}
        rows = pl.DataFrame(schema=schema)
        how = "The data has no impressions, and no negatives were asked for: the impressions are empty."
    else:
        purchases = log.frame.filter(pl.col("behavior").cast(pl.String) == "purchase")
        sampled = sample_impressions(purchases, num_negatives=num_negatives, random_seed=random_seed)
        rows = sampled.frame
        how = (
            f"Negatives are sampled: {num_negatives} for each purchase, uniformly, seed {random_seed}; "
            f"{sampled.num_left_out} of {sampled.num_events} purchases are their product's first and no "
            f"positives; {sampled.num_missing} negatives could not be drawn."
        )
    hour = local_time().dt.hour().cast(pl.Int64)
    return rows.with_columns(hour=hour, domain=pl.lit("internal")), how
