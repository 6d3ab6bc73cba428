"""The rows of LSTTM's table and of its ablations: configurations, and what a search may change in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from experiments.config import (
    BaselineConfig,
    DataSetting,
    ItemRateConfig,
    LogisticConfig,
    LSTTMConfig,
    ModelConfig,
    SMLModelConfig,
    TGATConfig,
    lsttm_literal,
    lsttm_with_preference,
)
from graphrec.models.trees import TreesConfig
from graphrec.training.long_term import LongTermConfig
from graphrec.training.loop import OptimizerConfig
from graphrec.training.meta_tasks import MetaConfig
from graphrec.training.preference import PreferenceConfig

Space = Mapping[str, tuple[Any, ...]]
Group = Literal["main", "ablations"]

FITTING: Space = {
    "optimizer.learning_rate": (5e-4, 1e-3, 2e-3),
    "optimizer.embedding_learning_rate": (1e-4, 2e-4, 4e-4, 1e-3),
    "optimizer.epochs": (2, 3, 4),
    "optimizer.weight_decay": (1e-3, 1e-2, 1e-1),
}
NETWORK: Space = {**FITTING, "dropout": (0.1, 0.3, 0.5)}
GRAPH: Space = {**NETWORK, "short_term.num_neighbors": (5, 10)}
META: Space = {  # the plain batches as everywhere, and the inner step of the tasks after them
    **{name.replace("optimizer.", "plain_first."): values for name, values in NETWORK.items()},
    "short_term.num_neighbors": GRAPH["short_term.num_neighbors"],
    "meta.learning_rate": (0.003, 0.01, 0.03),
    "meta.embedding_learning_rate": (0.003, 0.01, 0.1),
}
# An epoch of tasks after plain training, at a fifth of its rates: from scratch it takes ten times as long.
TASKS = OptimizerConfig(epochs=1, learning_rate=2e-4, embedding_learning_rate=2e-5)
SML: Space = {
    "sml.fit.learning_rate": (5e-4, 1e-3, 2e-3),
    "sml.fit.embedding_learning_rate": (2e-4, 1e-3, 5e-3, 2e-2),
    "sml.fit.weight_decay": (1e-3, 1e-2, 1e-1),
    "sml.fit.epochs": (1, 2),
    "sml.transfer_learning_rate": (1e-4, 1e-3, 1e-2),
}
TREES: Space = {
    "num_trees": (200, 300, 500, 800),
    "learning_rate": (0.02, 0.04, 0.08),
    "max_leaf_nodes": (7, 15, 31),
    "min_samples_leaf": (20, 50, 200),
    "l2_regularization": (1.0, 5.0, 20.0),
    "max_features": (0.3, 0.5, 1.0),
}
LOGISTIC: Space = {"inverse_penalty": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1.0)}
ITEM_RATE: Space = {
    "half_life_hours": (6.0, 24.0, 72.0, 240.0, 1000.0),
    "prior_weight": (5.0, 20.0, 80.0),
}


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row: a model with a search of its own, or another row's with something changed.

    Attributes:
        name: as the table shows it.
        group: the main table or the ablations.
        config: today's defaults, the first trial of the search; of a changed row, its own are not read.
        space: values that the search draws from, by the dotted name of the field.
        of: the row that is changed; its search is this row's.
        change: what is changed.
        long_term: the long-term module's configuration, where the model reads it.
        is_random: whether a seed changes anything.
        needs_exposures: whether there is no such row where the data does not say what users were shown.

    """

    name: str
    group: Group = "main"
    config: ModelConfig = field(default_factory=BaselineConfig)
    space: Space = field(default_factory=dict)
    of: str | None = None
    change: Callable[[LSTTMConfig], ModelConfig] | None = None
    long_term: LongTermConfig = LongTermConfig()
    is_random: bool = True
    needs_exposures: bool = False

    def changed(self, config: ModelConfig) -> ModelConfig:
        """Return what this row makes of the configuration that was chosen for ``of``, or for itself."""
        return config if self.change is None else self.change(cast(LSTTMConfig, config))


def _baseline(name: str, **options: Any) -> TableRow:
    config = BaselineConfig(**options)
    return TableRow(name=name, config=config, space=NETWORK)


def _changed(name: str, change: Callable[[LSTTMConfig], ModelConfig], **options: Any) -> TableRow:
    return TableRow(name=name, group="ablations", of="LSTTM", change=change, **options)


def _neighbors(num_neighbors: int) -> Callable[[LSTTMConfig], ModelConfig]:
    return lambda c: replace(c, short_term=replace(c.short_term, num_neighbors=num_neighbors))


def _of_order(order: Literal[1, 2]) -> Callable[[LSTTMConfig], ModelConfig]:
    return lambda c: replace(c, meta=None if c.meta is None else replace(c.meta, order=order))


def _lsttm() -> LSTTMConfig:
    """Return LSTTM as the table has it: plain batches, then an epoch of temporal MAML's tasks."""
    return replace(
        lsttm_with_preference(),
        meta=MetaConfig(order=1),
        plain_first=lsttm_with_preference().optimizer,
        optimizer=TASKS,
    )


def _plain(c: LSTTMConfig) -> LSTTMConfig:
    """Leave the tasks out."""
    return replace(c, meta=None, plain_first=None, optimizer=c.plain_first or c.optimizer)


def _from_scratch(c: LSTTMConfig) -> LSTTMConfig:
    """Train by tasks alone, as long as the plain batches were."""
    return replace(c, plain_first=None, optimizer=c.plain_first or c.optimizer)


def _raw_fields(c: LSTTMConfig) -> BaselineConfig:
    """Without both graphs LSTTM is its head on the fields and counts: DeepFM, trained as LSTTM is."""
    return BaselineConfig(
        past_counts=c.past_counts,
        channels=c.channels,
        hidden_channels=c.hidden_channels,
        dropout=c.dropout,
        optimizer=c.optimizer,
        meta=c.meta,
        plain_first=c.plain_first,
        preference=c.preference,
    )


def _literal(c: LSTTMConfig) -> LSTTMConfig:
    """Make the paper's form, fitted with the rates that were chosen for ours."""
    return replace(
        lsttm_literal(), dropout=c.dropout, optimizer=c.optimizer, meta=c.meta, plain_first=c.plain_first
    )


def _make_rows() -> list[TableRow]:
    both = ("internal", "external")
    return [
        TableRow(name="item CTR", config=ItemRateConfig(), space=ITEM_RATE, is_random=False),
        TableRow(name="logistic regression", config=LogisticConfig(), space=LOGISTIC, is_random=False),
        TableRow(name="FM", config=BaselineConfig(model="FM"), space=NETWORK),
        _baseline("NFM", model="NFM"),
        _baseline("DeepFM"),
        _baseline("AutoInt", model="AutoInt"),
        _baseline("DeepFM (+external)", sequences=("external",)),
        _baseline("DIN+DeepFM (+external)", model="DIN", sequences=both),
        TableRow(name="SML (MF)", config=SMLModelConfig(), space=SML),
        TableRow(name="SML+DeepFM", config=SMLModelConfig(base="DeepFM"), space=SML),
        _baseline("SASRec (+external)", model="SASRec", sequences=both),
        TableRow(name="TGAT", config=TGATConfig(), space=GRAPH),
        _baseline("DeepFM + counts", past_counts=True),
        replace(
            _baseline("DeepFM + counts + preference", past_counts=True, preference=PreferenceConfig()),
            needs_exposures=True,
        ),
        _baseline("DIN+DeepFM (+external) + counts", model="DIN", sequences=both, past_counts=True),
        TableRow(name="boosted trees", config=TreesConfig(max_features=0.5), space=TREES),
        TableRow(name="LSTTM without meta", config=lsttm_with_preference(), space=GRAPH),
        TableRow(name="LSTTM", config=_lsttm(), space=META),
        TableRow(
            name="LSTTM on shuffled times",
            of="LSTTM without meta",
            change=lambda c: replace(c, shuffle_times=True),
        ),
        _changed("no temporal MAML", _plain),
        _changed("temporal MAML from scratch", _from_scratch),
        _changed("first order", _of_order(1)),
        _changed("second order", _of_order(2)),
        _changed("no long-term graph", lambda c: replace(c, long_term=False)),
        _changed(
            "no external behaviours",
            lambda c: replace(c, long_term=False, short_term_domains=("internal",)),
        ),
        _changed("concatenation for the gate", lambda c: replace(c, fusion="concatenation")),
        _changed("no GAT, no L_N: raw fields", _raw_fields),
        _changed("no negatives in L_N", lambda c: c, long_term=LongTermConfig(num_negatives=0)),
        _changed(
            "random neighbours in the short-term graph",
            lambda c: replace(c, short_term=replace(c.short_term, strategy="uniform")),
        ),
        *(_changed(f"K = {count}", _neighbors(count)) for count in (5, 10, 30, 60)),
        _changed(
            "long-term graph of all training days at once",
            lambda c: replace(c, long_term_trained_on="all training days"),
        ),
        _changed("without preference vectors", lambda c: replace(c, preference=None), needs_exposures=True),
        _changed("two hops", lambda c: replace(c, short_term=replace(c.short_term, num_layers=2))),
        _changed("without past counts", lambda c: replace(c, past_counts=False)),
        _changed("the paper's literal form", _literal),
    ]


ROWS: dict[str, TableRow] = {row.name: row for row in _make_rows()}


def rows_of_data(setting: DataSetting) -> list[TableRow]:
    """Return the rows that a data set can have, in the order of the table.

    Where it does not say what users were shown and left, no row reads preference vectors.
    """
    if setting.has_exposures:
        return list(ROWS.values())
    rows = [row for row in ROWS.values() if not row.needs_exposures]
    return [
        replace(row, config=replace(row.config, preference=None))
        if isinstance(row.config, BaselineConfig | LSTTMConfig)
        else row
        for row in rows
    ]


def with_settings(config: Any, settings: Mapping[str, Any]) -> Any:
    """Return a copy with other values at dotted names of fields, such as "optimizer.epochs"."""
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        inner = with_settings(getattr(config, first), {rest: value}) if rest else value
        config = replace(config, **{first: inner})
    return config
