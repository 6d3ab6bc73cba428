"""The log on disk: whole records come back, a torn end is cut off, other damage is an error."""

import logging
import os
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphrec.serving.event_log import EVENTS, PERIOD_END, DamagedLogError, EventLogFile, Record

RECORDS = [
    Record(EVENTS, 2, b"first line\nsecond\n"),
    Record(PERIOD_END, 0, b"{}"),
    Record(EVENTS, 1, b"x" * 50),
]


def write(path, records=RECORDS):
    log = EventLogFile(path)
    for record in records:
        log.append(record)
    log.close()
    return path.read_bytes()


def read(path):
    log = EventLogFile(path)
    log.close()
    return log.records


def test_records_come_back(tmp_path):
    write(tmp_path / "log")
    assert read(tmp_path / "log") == RECORDS
    write(tmp_path / "log", RECORDS[:1])
    assert read(tmp_path / "log") == [*RECORDS, RECORDS[0]]


@given(cut=st.integers(0, 10_000))
def test_a_torn_end_is_cut_off(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "log"
    data = write(path)
    cut %= len(data)
    path.write_bytes(data[:cut])
    kept = read(path)
    assert kept == RECORDS[: len(kept)]
    assert len(path.read_bytes()) <= cut
    write(path, RECORDS[:1])  # and the log goes on behind the last whole record
    assert read(path) == [*kept, RECORDS[0]]


def test_cutting_is_said(tmp_path, caplog):
    data = write(tmp_path / "log")
    (tmp_path / "log").write_bytes(data[:-1])
    with caplog.at_level(logging.WARNING):
        read(tmp_path / "log")
    assert "cut off 66 bytes" in caplog.text
    assert "had not been acknowledged" in caplog.text


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_record_before_whole_ones_is_an_error(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("log") / "log"
    data = bytearray(write(path))
    data[place % (len(data) - 67)] ^= 1 << bit  # anywhere before the last record
    path.write_bytes(bytes(data))
    with pytest.raises(DamagedLogError, match="restore the file from a copy"):
        EventLogFile(path)


def test_a_record_is_flushed_before_the_call_returns(tmp_path):
    log = EventLogFile(tmp_path / "log")
    with mock.patch("os.fdatasync", wraps=os.fdatasync) as flush:
        log.append(RECORDS[0])
    flush.assert_called_once()
    log.close()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_record_that_cannot_be_written_is_not_in_the_way_of_the_next(tmp_path, error):
    log = EventLogFile(tmp_path / "log")
    log.append(RECORDS[0])
    with mock.patch("os.fdatasync", side_effect=error), pytest.raises(type(error)):
        log.append(RECORDS[1])
    log.append(RECORDS[2])
    log.close()
    assert read(tmp_path / "log") == [RECORDS[0], RECORDS[2]]
