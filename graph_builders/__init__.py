"""Event logs to behaviour graphs: reading and checking, ID maps, the graph, features, splits by time."""

from graph_builders.behavior_graph import BehaviorGraph, Edges, Relation, RelationEdges, build_behavior_graph
from graph_builders.events import (
    EventLog,
    EventLogError,
    EventLogReport,
    EventSchema,
    concat_event_logs,
    read_events,
    read_table,
)
from graph_builders.feature_table import (
    CategoricalColumn,
    FeatureTable,
    NumericColumn,
    RaggedColumn,
    build_feature_table,
)
from graph_builders.features import Bins, FittedFields, Vocabulary, fit_fields
from graph_builders.graph_files import CorruptedGraphError
from graph_builders.ids import IdMap
from graph_builders.splits import (
    Impressions,
    TimeSplit,
    build_impressions,
    day_bounds,
    period_start,
    periods,
    split_by_time,
)

__all__ = [
    "BehaviorGraph",
    "Bins",
    "CategoricalColumn",
    "CorruptedGraphError",
    "Edges",
    "EventLog",
    "EventLogError",
    "EventLogReport",
    "EventSchema",
    "FeatureTable",
    "FittedFields",
    "IdMap",
    "Impressions",
    "NumericColumn",
    "RaggedColumn",
    "Relation",
    "RelationEdges",
    "TimeSplit",
    "Vocabulary",
    "build_behavior_graph",
    "build_feature_table",
    "build_impressions",
    "concat_event_logs",
    "day_bounds",
    "fit_fields",
    "period_start",
    "periods",
    "read_events",
    "read_table",
    "split_by_time",
]
