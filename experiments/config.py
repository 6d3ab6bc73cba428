"""The main job's configurations: typed values, one function a named run."""

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal

from experiments.user_encoders import UserEncoderFeatures
from graph_builders.option_checks import check_choices, check_numbers, check_seeds, check_whole_numbers
from graphrec.models.trees import TreesConfig
from graphrec.training.batches import ShortTermConfig
from graphrec.training.long_term import LongTermConfig
from graphrec.training.loop import OptimizerConfig
from graphrec.training.meta_tasks import MetaConfig
from graphrec.training.online import OnlineConfig, UpdateForm
from graphrec.training.preference import PreferenceConfig
from graphrec.training.sml import SMLConfig

TrainedOn = Literal["days before", "all training days"]
TEST_DAYS = ("2022-05-04", "2022-05-05", "2022-05-06", "2022-05-07", "2022-05-08")
VALIDATION_DAY = "2022-05-03"


@dataclass(frozen=True, kw_only=True)
class DataSetting:
    """What the table does on a data set.

    Attributes:
        test_days: names of the test windows, in order.
        validation_day: the window on which everything is chosen.
        ablation_days: the test windows of the ablations.
        period_hours: length of a period.
        has_exposures: whether the data says what users were shown and left, for preference vectors.

    """

    test_days: tuple[str, ...]
    validation_day: str
    ablation_days: tuple[str, ...]
    period_hours: int = 1
    has_exposures: bool = True


DATA_SETTINGS: dict[str, DataSetting] = {
    "kuairand": DataSetting(
        test_days=TEST_DAYS, validation_day=VALIDATION_DAY, ablation_days=("2022-05-07", "2022-05-08")
    ),
    "simulator": DataSetting(
        test_days=("2024-01-09", "2024-01-10"), validation_day="2024-01-08", ablation_days=("2024-01-10",)
    ),
    "amazon-afk": DataSetting(  # windows of 180 days, in periods of 30
        test_days=("2013-07-14", "2014-01-10"),
        validation_day="2013-01-15",
        ablation_days=("2014-01-10",),
        has_exposures=False,
    ),
}


@dataclass(frozen=True, kw_only=True)
class LSTTMConfig:
    """LSTTM and its named options beyond the paper; the defaults were chosen on the validation day.

    With ``meta`` it is trained by temporal MAML, with ``optimizer`` outside, and otherwise on plain batches.
    With ``plain_first`` as well, it is first trained so on plain batches: temporal MAML is slower a row.
    With ``preference`` it also reads what was learned from items that were shown and left; the seed of a run
    takes the place of ``preference.random_seed``. With ``user_encoder`` the short-term graph's
    users have its vectors as further features.
    """

    long_term: bool = True
    long_term_trained_on: TrainedOn = "days before"
    past_counts: bool = True
    item_vectors: bool = True
    raw_fields: bool = True
    self_term: bool = True
    field_pooling: Literal["concatenation", "sum"] = "concatenation"
    fusion: Literal["gate", "concatenation"] = "gate"
    short_term_domains: tuple[str, ...] = ("internal", "external")
    short_term_behaviors: tuple[str, ...] = ("click", "skip")
    short_term: ShortTermConfig = ShortTermConfig(num_neighbors=5, edge_features=True, degree_features=True)
    shuffle_times: bool = False
    preference: PreferenceConfig | None = None
    user_encoder: UserEncoderFeatures | None = None
    channels: int = 16
    hidden_channels: tuple[int, ...] = (128, 128)
    dropout: float = 0.3
    optimizer: OptimizerConfig = OptimizerConfig()
    meta: MetaConfig | None = None
    plain_first: OptimizerConfig | None = None
    online: OnlineConfig = OnlineConfig()

    def __post_init__(self) -> None:
        _check_sizes(self)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """A model without a graph on the same fields, with or without past counts as dense features.

    Attributes:
        model: which one; DIN and SASRec need sequences, DeepFM takes them as further fields (+external).
        past_counts: counts, rates and recencies as of the period's start.
        sequences: past events that the model reads, out of "internal" and "external".
        sequence_length: the most recent events of a sequence.
        channels: size of a field's vector.
        meta: temporal MAML's tasks and inner step; None trains on plain batches.
        preference: preference vectors as further inputs, of DeepFM alone; its random seed is that of the run.

    """

    model: Literal["FM", "NFM", "AutoInt", "DeepFM", "DIN", "SASRec"] = "DeepFM"
    past_counts: bool = False
    sequences: tuple[str, ...] = ()
    sequence_length: int = 30
    channels: int = 16
    hidden_channels: tuple[int, ...] = (128, 128)
    dropout: float = 0.3
    optimizer: OptimizerConfig = OptimizerConfig()
    meta: MetaConfig | None = None
    plain_first: OptimizerConfig | None = None
    online: OnlineConfig = OnlineConfig()
    preference: PreferenceConfig | None = None

    def __post_init__(self) -> None:
        _check_sizes(self)
        check_whole_numbers(self, sequence_length=1)
        if self.preference is not None and self.model != "DeepFM":
            raise ValueError(f"preference vectors are inputs of DeepFM and LSTTM, not of {self.model}")


@dataclass(frozen=True, kw_only=True)
class ItemRateConfig:
    """An item's click rate of the past, the recent impressions weighing more.

    Attributes:
        half_life_hours: age at which an impression weighs half.
        prior_weight: impressions at the rate of all items that each item is given.

    """

    half_life_hours: float = 72.0
    prior_weight: float = 20.0


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """Logistic regression on all fields one-hot, with or without past counts.

    Attributes:
        inverse_penalty: scikit-learn's C: one over the weight of the squared norm.
        max_iterations: of L-BFGS.

    """

    past_counts: bool = True
    inverse_penalty: float = 0.01
    max_iterations: int = 200


@dataclass(frozen=True, kw_only=True)
class TGATConfig:
    """TGAT over the short-term graph that LSTTM has, on the fields of the baselines.

    Attributes:
        past_counts: counts, rates and recencies as of the period's start.
        short_term_domains, short_term_behaviors, short_term: as LSTTM's; edge features carry the ages.
        time_channels: size of an encoded time.
        num_heads: heads of a layer (paper: 2).

    """

    past_counts: bool = False
    short_term_domains: tuple[str, ...] = ("internal", "external")
    short_term_behaviors: tuple[str, ...] = ("click", "skip")
    short_term: ShortTermConfig = ShortTermConfig(num_neighbors=5, edge_features=True)
    shuffle_times: bool = False
    channels: int = 16
    time_channels: int = 16
    num_heads: int = 2
    hidden_channels: tuple[int, ...] = (128, 128)
    dropout: float = 0.3
    optimizer: OptimizerConfig = OptimizerConfig()
    meta: MetaConfig | None = None
    plain_first: OptimizerConfig | None = None
    online: OnlineConfig = OnlineConfig()

    def __post_init__(self) -> None:
        _check_sizes(self)
        check_whole_numbers(self, time_channels=1, num_heads=1)


@dataclass(frozen=True, kw_only=True)
class SMLModelConfig:
    """SML over matrix factorisation, or over DeepFM on the fields of the other baselines.

    Attributes:
        base: the model whose tables are transferred.
        channels: size of a row.
        sml: how the model and the networks take turns over the training windows.

    """

    base: Literal["MF", "DeepFM"] = "MF"
    channels: int = 16
    hidden_channels: tuple[int, ...] = (128, 128)
    dropout: float = 0.3
    sml: SMLConfig = SMLConfig(
        fit=OptimizerConfig(epochs=1, decay=False, embedding_learning_rate=1e-3), transfer_epochs=1
    )

    def __post_init__(self) -> None:
        _check_sizes(self)


def _check_sizes(config: "LSTTMConfig | BaselineConfig | TGATConfig | SMLModelConfig") -> None:
    """Refuse what no network can be built of, before any data is read."""
    check_choices(config)
    check_whole_numbers(config, channels=1)
    check_numbers(config, ("dropout",), least=0, below=1)
    if any(
        isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in config.hidden_channels
    ):
        raise ValueError(
            f"{type(config).__name__}.hidden_channels must be whole numbers of at least 1, got "
            f"{config.hidden_channels!r}"
        )


NeuralConfig = LSTTMConfig | BaselineConfig | TGATConfig
ModelConfig = NeuralConfig | SMLModelConfig | TreesConfig | ItemRateConfig | LogisticConfig


def lsttm() -> LSTTMConfig:
    """Return LSTTM as the main table has it."""
    return LSTTMConfig()


def lsttm_with_preference() -> LSTTMConfig:
    """Return LSTTM as LSTTM's own table has it: preference vectors, and one hop.

    On days before the test days one hop was as good as two at less than half the cost.
    """
    return LSTTMConfig(
        short_term=replace(LSTTMConfig().short_term, num_layers=1), preference=PreferenceConfig()
    )


def lsttm_literal() -> LSTTMConfig:
    """Return the paper's LSTTM: internal clicks alone in the short-term graph, no counts, no raw fields."""
    return LSTTMConfig(
        past_counts=False,
        item_vectors=False,
        raw_fields=False,
        self_term=False,
        field_pooling="concatenation",
        short_term_domains=("internal",),
        short_term_behaviors=("click",),
        short_term=ShortTermConfig(num_neighbors=30),
    )


MODELS: dict[str, ModelConfig] = {
    "LSTTM": lsttm(),
    "boosted trees": TreesConfig(max_features=0.5),
    "DeepFM + counts": BaselineConfig(past_counts=True),
    "DeepFM": BaselineConfig(),
}

EXTRA_MODELS: dict[str, ModelConfig] = {
    "LSTTM (paper's form)": lsttm_literal(),
    "LSTTM without the long-term graph": replace(lsttm(), long_term=False),
    "LSTTM, internal short-term graph": replace(lsttm(), short_term_domains=("internal",)),
    "LSTTM without past counts": replace(lsttm(), past_counts=False),
    "LSTTM on shuffled times": replace(lsttm(), shuffle_times=True),
}

META: dict[str, ModelConfig] = {
    "LSTTM, temporal MAML": replace(lsttm(), meta=MetaConfig(order=1)),
    "DeepFM + counts, temporal MAML": BaselineConfig(past_counts=True, meta=MetaConfig()),
}

PREFERENCE: dict[str, ModelConfig] = {
    "LSTTM + preference": replace(lsttm(), preference=PreferenceConfig()),
    "DeepFM + counts + preference": BaselineConfig(past_counts=True, preference=PreferenceConfig()),
}

BASELINES: dict[str, ModelConfig] = {
    "FM": BaselineConfig(model="FM"),
    "NFM": BaselineConfig(model="NFM"),
    "AutoInt": BaselineConfig(model="AutoInt"),
    "DeepFM (+external)": BaselineConfig(sequences=("external",)),
    "DIN+DeepFM (+external)": BaselineConfig(model="DIN", sequences=("internal", "external")),
}

ALL_MODELS = {**MODELS, **EXTRA_MODELS, **BASELINES, **META, **PREFERENCE}


@dataclass(frozen=True, kw_only=True)
class MainConfig:
    """One run of the main job.

    Attributes:
        table: name of the result files.
        test_days: local days; each is scored by models trained on all days before it.
        seeds: random seeds.
        models: names out of ``ALL_MODELS``.
        update_forms: online updates to show, out of "none", "union", "chained".
        period_hours: length of a period.
        long_term: the long-term module's training; each seed of the run is its random seed.
        device: "cpu" or "cuda".
        data: folder of KuaiRand-Pure, default the embedded copy.

    """

    table: str = "main"
    test_days: tuple[str, ...] = TEST_DAYS
    seeds: tuple[int, ...] = (0, 1, 2)
    models: tuple[str, ...] = tuple(MODELS)
    update_forms: tuple[UpdateForm, ...] = ("none", "union")
    period_hours: int = 1
    long_term: LongTermConfig = field(default_factory=LongTermConfig)
    device: str = "cpu"
    data: str | None = None

    def __post_init__(self) -> None:
        if not self.test_days or not self.models or not self.update_forms:
            raise ValueError("name at least one test day, model and form of update")
        check_seeds(self, "seeds")
        for day in self.test_days:
            date.fromisoformat(day)
        if self.period_hours < 1 or 24 % self.period_hours:
            raise ValueError(f"period_hours must divide 24, got {self.period_hours}")
        unknown = set(self.models) - set(ALL_MODELS)
        if unknown:
            raise ValueError(f"no models {sorted(unknown)}; there are {[*ALL_MODELS]}")


def demo() -> MainConfig:
    """Return the demo: the last test day, one seed."""
    return MainConfig(table="demo", test_days=TEST_DAYS[-1:], seeds=(0,))


def controls() -> MainConfig:
    """Return LSTTM beside its ablations and the negative control: the last test day, one seed."""
    models = ("LSTTM", *EXTRA_MODELS)
    return MainConfig(
        table="controls", test_days=TEST_DAYS[-1:], seeds=(0,), models=models, update_forms=("none",)
    )


def baselines() -> MainConfig:
    """Return the baselines of the paper beside DeepFM and boosted trees: the last test day, one seed."""
    models = ("boosted trees", "DeepFM + counts", "DeepFM", *BASELINES)
    return MainConfig(
        table="baselines", test_days=TEST_DAYS[-1:], seeds=(0,), models=models, update_forms=("none",)
    )


def meta() -> MainConfig:
    """Return LSTTM and DeepFM with and without temporal MAML: the last test day, one seed."""
    models = ("LSTTM, temporal MAML", "LSTTM", "DeepFM + counts, temporal MAML", "DeepFM + counts")
    return MainConfig(table="meta", test_days=TEST_DAYS[-1:], seeds=(0,), models=models)
