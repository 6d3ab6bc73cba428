"""An append-only log of records with length and checksum: what it has acknowledged is on disk.

A record is a header (mark, length, checksum, kind, number of events) and its content. It is flushed to disk
before the next one is begun, so that after a kill only the last can be torn: that one was never acknowledged
and is cut off when the log is opened. Damage before a whole record is an error instead.
"""

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_MARK = b"\xf5GRL"
_HEADER = struct.Struct("<4sIIBI")  # mark, length of the content, checksum, kind, number of events
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


class EventLogFile:
    """A log that is open for appending.

    Opening reads all records, and cuts off a torn one at the end with a warning to the log of the program.

    Args:
        path: the file; made if there is none.

    Raises:
        DamagedLogError: a record is damaged and whole ones follow it.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if is_new:
            _flush_folder(path.parent)
        data = path.read_bytes()
        try:
            self.records, self.size = _read(data, path)
        except DamagedLogError:
            os.close(self._file)
            raise
        if self.size < len(data):
            lost = len(data) - self.size
            logger.warning(
                "%s: cut off %d bytes of a record that was being written when the process ended; "
                "its events had not been acknowledged",
                path,
                lost,
            )
            os.ftruncate(self._file, self.size)
            os.fsync(self._file)
        self._is_torn = False  # whether a part of a record lies behind the whole ones

    def append(self, record: Record) -> None:
        """Write a record and return when it is on disk.

        Raises:
            OSError: it could not be written; the next call, or opening the log again, cuts off what there is
                of it.

        """
        if self._is_torn:
            os.ftruncate(self._file, self.size)
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
        os.close(self._file)


def _encode(record: Record) -> bytes:
    tail = struct.pack("<BI", record.kind, record.num_events)
    checksum = zlib.crc32(record.content, zlib.crc32(tail))
    return _HEADER.pack(_MARK, len(record.content), checksum, record.kind, record.num_events) + record.content


def _read(data: bytes, path: Path) -> tuple[list[Record], int]:
    """Return the whole records from the beginning, and where they end."""
    records, at = [], 0
    while at < len(data):
        record = _decode(data, at)
        if record is None:
            # a mark inside torn content is no record: its checksum would have to fit by chance
            later = data.find(_MARK, at + 1)
            while later >= 0 and _decode(data, later) is None:
                later = data.find(_MARK, later + 1)
            if later >= 0:
                raise DamagedLogError(
                    f"{path}: the record at byte {at} is damaged and whole records follow it at byte "
                    f"{later}: restore the file from a copy"
                )
            break
        records.append(record)
        at += _HEADER.size + len(record.content)
    return records, at


def _decode(data: bytes, at: int) -> Record | None:
    """Return the record that begins at a byte; None if none whole does."""
    if at + _HEADER.size > len(data):
        return None
    mark, length, checksum, kind, num_events = _HEADER.unpack_from(data, at)
    begin = at + _HEADER.size
    if mark != _MARK or begin + length > len(data):
        return None
    content = data[begin : begin + length]
    if zlib.crc32(content, zlib.crc32(struct.pack("<BI", kind, num_events))) != checksum:
        return None
    return Record(kind, num_events, content)


def _flush_folder(folder: Path) -> None:
    """Put the folder's list of files on disk: a new file is otherwise lost with the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
