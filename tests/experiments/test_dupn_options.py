"""Options of DUPN's tables: refused by name where they are given, before anything is read or run."""

import json
from dataclasses import replace

import pytest

from experiments.dupn_data import DUPNDataSettings, kuairand_data
from experiments.dupn_methods import NetworkSettings
from experiments.dupn_parts import DUPNParts, TransferSettings
from experiments.dupn_tables import DUPNTableConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rates", (0.1, 0.0)),
        ("rates", ()),
        ("tree_rates", (-0.1,)),
        ("tree_rates", (float("inf"),)),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("item_channels", 0),
        ("hidden_channels", 1),
        ("head_channels", -4),
    ],
)
def test_network_settings_that_cannot_be(name, wrong):
    with pytest.raises(ValueError, match=f"NetworkSettings.{name}"):
        NetworkSettings(**{name: wrong})


def test_table_options_that_cannot_be():
    with pytest.raises(ValueError, match=r"DUPNTableConfig.seeds must be .* at least 0, got -1"):
        DUPNTableConfig(seeds=(0, -1))
    with pytest.raises(ValueError, match=r"rows are variants, got \['Wide'\] with the parts \['transfer'\]"):
        DUPNTableConfig(part=("transfer",), rows=("Wide",))
    DUPNTableConfig(part=("transfer", "variants"), rows=("Wide",))
    with pytest.raises(ValueError, match=r"TransferSettings.labels must be .* got 0"):
        TransferSettings(labels=(0,))
    with pytest.raises(ValueError, match=r"TransferSettings.least_steps must be .* got 0"):
        TransferSettings(least_steps=0)


@pytest.mark.parametrize("days", [{"num_train_days": 11}, {"num_test_days": 40}])
def test_days_that_the_log_does_not_have(tmp_path, days):
    path = write_slice(tmp_path / "data", sliced_log())
    with pytest.raises(ValueError, match=r"the log has 14 of them"):
        kuairand_data(path, DUPNDataSettings(**days))


def test_parts_are_found_whatever_rates_there_are_to_choose_from():
    class Data:
        fingerprint, settings = "0" * 16, DUPNDataSettings()

    def content(**options):
        networks = replace(NetworkSettings(), **options)
        return json.loads(json.dumps(DUPNParts._content(_parts(Data, networks))))

    wanted = content()
    assert wanted["networks"]["rates"] == wanted["networks"]["tree_rates"] == [0.0]
    assert content(rates=(0.3,), tree_rates=(0.2, 0.1)) == wanted
    assert content(dropout=0.1) != wanted


def _parts(data, networks):
    parts = object.__new__(DUPNParts)
    parts.data, parts.networks = data, networks
    return parts
