"""An append-only log of records with length and checksum: what it has acknowledged is on disk.

A record is a header (mark, length, checksum, kind, number of events) and its content. It is flushed to disk
before the next one is begun, so that after a kill only the last can be torn: that one was never acknowledged
and is moved to a file beside the log. Damage to a record that was written whole is an error instead, also to
the last one.
"""

import contextlib
import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_MARK = b"\xf5GRL"
_HEADER = struct.Struct("<4sIIBI")  # mark, length of the content, checksum, kind, number of events
_SECTOR = 512  # bytes that a disk writes at once: what it has not written begins at a multiple
EVENTS, PERIOD_END = 1, 2
logger = logging.getLogger(__name__)


class DamagedLogError(ValueError):
    """A log in which an acknowledged record cannot be read."""


@dataclass(frozen=True)
class Record:
    """One record: its kind, how many events it holds, its content."""

    kind: int
    num_events: int
    content: bytes


@dataclass(frozen=True)
class LogContent:
    """What a log holds: its whole records, the bytes that they take, and those of a torn one behind them."""

    records: list[Record]
    size: int
    torn: bytes


def read_log(path: Path) -> LogContent:
    """Read a log and change nothing; one that is not there has no records.

    Raises:
        DamagedLogError: a record is damaged, or the path is no file.

    """
    if not path.exists():
        return LogContent([], 0, b"")
    if not path.is_file():
        raise DamagedLogError(f"{path} is no file, it should be the log of events: move it away")
    data = path.read_bytes()
    records, at = [], 0
    while at < len(data):
        record = _decode(data, at)
        if record is None:
            _check_torn(data, at, path)
            break
        records.append(record)
        at += _HEADER.size + len(record.content)
    return LogContent(records, at, data[at:])


class EventLogFile:
    """A log that is open for appending.

    Opening moves a torn record at the end into a file beside the log, with a warning to the log of the
    program: nothing is destroyed.

    Args:
        path: the file; made if there is none.
        content: what :func:`read_log` has just returned of it.

    """

    def __init__(self, path: Path, content: LogContent) -> None:
        self.path, self.size = path, content.size
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if is_new:
            _flush_folder(path.parent)
        if content.torn:
            kept = _keep_beside(path, content.torn)
            logger.warning(
                "%s: cut off %d bytes of a record that was being written when the process ended; "
                "its events had not been acknowledged; the bytes are in %s",
                path,
                len(content.torn),
                kept,
            )
            os.ftruncate(self._file, self.size)
            os.fsync(self._file)
        self._is_torn = False  # whether a part of a record lies behind the whole ones

    def append(self, record: Record) -> None:
        """Write a record and return when it is on disk.

        Raises:
            OSError: it could not be written; the next call, or closing, cuts off what there is of it.

        """
        self._cut_own()
        self._is_torn = True
        data = _encode(record)
        written = 0
        while written < len(data):
            written += os.write(self._file, data[written:])
        os.fdatasync(self._file)
        self._is_torn = False
        self.size += len(data)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a disk that fails: opening the log again finds a torn record
            self._cut_own()
        os.close(self._file)

    def _cut_own(self) -> None:
        """Cut off what a call that raised has left of its record: its caller knows that it is not kept."""
        if self._is_torn:
            os.ftruncate(self._file, self.size)
            self._is_torn = False


def _encode(record: Record) -> bytes:
    checksum = _checksum(record.kind, record.num_events, record.content)
    return _HEADER.pack(_MARK, len(record.content), checksum, record.kind, record.num_events) + record.content


def _checksum(kind: int, num_events: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack("<BI", kind, num_events)))


def _decode(data: bytes, at: int) -> Record | None:
    """Return the record that begins at a byte; None if none whole does."""
    if at + _HEADER.size > len(data):
        return None
    mark, length, checksum, kind, num_events = _HEADER.unpack_from(data, at)
    begin = at + _HEADER.size
    if mark != _MARK or begin + length > len(data):
        return None
    content = data[begin : begin + length]
    return Record(kind, num_events, content) if _checksum(kind, num_events, content) == checksum else None


def _check_torn(data: bytes, at: int, path: Path) -> None:
    """Raise unless the bytes from ``at`` on are a record that was never written to its end."""
    # a mark inside torn content is no record: its checksum would have to fit by chance
    later = data.find(_MARK, at + 1)
    while later >= 0 and _decode(data, later) is None:
        later = data.find(_MARK, later + 1)
    if later < 0 and _looks_torn(data, at):
        return
    what = f"whole records follow it at byte {later}" if later >= 0 else "it is the last one"
    raise DamagedLogError(
        f"{path}: the record at byte {at} is damaged and {what}; it had been acknowledged, and nothing has "
        f"been changed: restore the file from a copy, or, to go on without it and what follows, keep a copy "
        f"and cut the file to its first {at} bytes"
    )


def _looks_torn(data: bytes, at: int) -> bool:
    """Say whether the last record, which cannot be read, is shorter than its length says or ends in zeros.

    The zeros are what a file system leaves where the machine stopped between the file's new length and its
    content. The content of a record, JSON, has none.
    """
    begin = at + _HEADER.size
    if begin > len(data):
        return True
    mark, length, checksum, kind, num_events = _HEADER.unpack_from(data, at)
    end = min(begin + length, len(data)) if mark == _MARK else len(data)
    zeros = max(len(data.rstrip(b"\0")), at)
    if zeros == at or -(-zeros // _SECTOR) * _SECTOR < end:
        return True
    if mark != _MARK or begin + length <= len(data):
        return False
    # a damaged length looks like a record cut short, but then all of the content is there
    return _checksum(kind, num_events, data[begin:]) != checksum


def _keep_beside(path: Path, torn: bytes) -> Path:
    """Put bytes into a new file beside the log and return its path when it is on disk."""
    number = 1
    while (kept := path.with_name(f"{path.name}.torn.{number}")).exists():
        number += 1
    with kept.open("xb") as file:
        file.write(torn)
        file.flush()
        os.fsync(file.fileno())
    _flush_folder(path.parent)
    return kept


def _flush_folder(folder: Path) -> None:
    """Put the folder's list of files on disk: a new file is otherwise lost with the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
