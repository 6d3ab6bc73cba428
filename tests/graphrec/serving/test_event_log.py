"""The log on disk: whole records come back, a torn end is moved aside, any other damage is an error."""

import logging
import os
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphrec.serving.event_log import EVENTS, PERIOD_END, DamagedLogError, EventLogFile, Record, read_log

RECORDS = [
    Record(EVENTS, 2, b"first line\nsecond\n"),
    Record(PERIOD_END, 0, b"{}"),
    Record(EVENTS, 1, b"x" * 50),
]
LAST = 17 + 50  # bytes of the last record
LONG = Record(EVENTS, 9, b"y" * 3000)


def write(path, records=RECORDS):
    log = EventLogFile(path, read_log(path))
    for record in records:
        log.append(record)
    log.close()
    return path.read_bytes()


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_records_come_back(tmp_path):
    assert read_log(tmp_path / "log").records == []
    write(tmp_path / "log")
    assert read_log(tmp_path / "log").records == RECORDS
    write(tmp_path / "log", RECORDS[:1])
    assert read_log(tmp_path / "log").records == [*RECORDS, RECORDS[0]]
    assert list(files(tmp_path)) == ["log"]


@given(cut=st.integers(0, 10_000))
def test_a_torn_end_is_moved_aside(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "log"
    data = write(path)
    cut %= len(data)
    path.write_bytes(data[:cut])
    kept = read_log(path)
    assert kept.records == RECORDS[: len(kept.records)]
    assert files(path.parent) == {"log": data[:cut]}  # reading changes nothing
    write(path, RECORDS[:1])  # and the log goes on behind the last whole record
    assert read_log(path).records == [*kept.records, RECORDS[0]]
    beside = path.with_name("log.torn.1")
    assert (beside.read_bytes() if beside.exists() else b"") == data[kept.size : cut]


def test_what_is_cut_is_said_and_each_time_kept(tmp_path, caplog):
    data = write(tmp_path / "log")
    for number in (1, 2):
        (tmp_path / "log").write_bytes(data[:-number])
        with caplog.at_level(logging.WARNING):
            write(tmp_path / "log", [])
        assert f"cut off {LAST - number} bytes" in caplog.text
        assert f"the bytes are in {tmp_path}/log.torn.{number}" in caplog.text
        assert (tmp_path / f"log.torn.{number}").read_bytes() == data[-LAST:-number]
    assert "had not been acknowledged" in caplog.text


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_damaged_record_is_an_error_also_the_last(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("log") / "log"
    data = bytearray(write(path))
    place %= len(data)
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))
    begin = 0 if place < 35 else 35 if place < 54 else 54
    with pytest.raises(DamagedLogError, match=rf"record at byte {begin} is damaged.* restore the file from"):
        read_log(path)
    assert files(path.parent) == {"log": bytes(data)}


@pytest.mark.parametrize("byte", range(LAST))
def test_every_byte_of_the_last_record_is_guarded(tmp_path, byte):
    data = bytearray(write(tmp_path / "log"))
    data[-1 - byte] ^= 1
    (tmp_path / "log").write_bytes(bytes(data))
    with pytest.raises(DamagedLogError, match="it is the last one; it had been acknowledged"):
        read_log(tmp_path / "log")


def test_zeros_that_a_file_system_leaves_are_a_torn_end(tmp_path):
    path = tmp_path / "log"
    data = write(path)
    path.write_bytes(data + bytes(100))
    assert read_log(path).torn == bytes(100)
    path.write_bytes(data)
    whole = write(path, [LONG])
    for sector in range(512, 3 * 1024, 512):  # the record's own bytes up to there have come to the disk
        torn = whole[:sector] + bytes(len(whole) - sector)
        path.write_bytes(torn)
        found = read_log(path)
        assert found.records == RECORDS
        assert found.torn == torn[len(data) :]
    # a few zeros inside a sector are no such end, and zeros behind a damaged record do not excuse it
    for wrong in (whole[:-20] + bytes(20), whole[:-1] + b"z" + bytes(2000)):
        path.write_bytes(wrong)
        with pytest.raises(DamagedLogError, match=f"record at byte {len(data)} is damaged"):
            read_log(path)


def test_a_folder_is_no_log(tmp_path):
    with pytest.raises(DamagedLogError, match="is no file, it should be the log of events"):
        read_log(tmp_path)


def test_a_record_is_flushed_before_the_call_returns(tmp_path):
    log = EventLogFile(tmp_path / "log", read_log(tmp_path / "log"))
    with mock.patch("os.fdatasync", wraps=os.fdatasync) as flush:
        log.append(RECORDS[0])
    flush.assert_called_once()
    log.close()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_record_that_cannot_be_written_is_not_in_the_way_of_the_next(tmp_path, error):
    log = EventLogFile(tmp_path / "log", read_log(tmp_path / "log"))
    log.append(RECORDS[0])
    for number in (1, 2):
        with mock.patch("os.fdatasync", side_effect=error), pytest.raises(type(error)):
            log.append(RECORDS[number])
        if number == 1:
            log.append(RECORDS[2])
    log.close()
    assert read_log(tmp_path / "log").records == [RECORDS[0], RECORDS[2]]
