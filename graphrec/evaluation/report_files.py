"""The files of a report: checked before a long run, then replaced whole; a pipe is written to."""

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def check_outputs(outputs: Mapping[str, Path], inputs: Sequence[Path] = ()) -> None:
    """Say before a long run, not after it, that an output has no place or would destroy an input.

    Args:
        outputs: the files to be written by what names them, such as ``--html``; ``-`` is standard output.
        inputs: files that are read; ``-`` is standard input.

    Raises:
        ValueError: an output is an input or another output, also by way of a link; it is a folder, or cannot
            be made or written to.

    """
    input_of = {_identity(path, "/dev/stdin"): path for path in inputs}
    output_of: dict[str, str] = {}
    for option, path in outputs.items():
        where, named = _identity(path, "/dev/stdout"), f"{option} {path}"
        if where in input_of:
            same = "a file" if str(input_of[where]) == str(path) else f"the file {input_of[where]}"
            raise ValueError(f"{named} would overwrite {same} that is read; name another file")
        if where in output_of and where != os.devnull:
            raise ValueError(f"{output_of[where]} and {named} are one file; name two")
        output_of[where] = named
        _check_place(path)


def write_file(path: Path, text: str) -> None:
    """Write text to a file, whole under another name and then renamed; a reader sees the old or the new one.

    A link is followed: its target is replaced. A device or a pipe is written to as it is. Folders are made.
    Raises ``OSError`` with ``path`` in its message where it cannot be written.
    """
    try:
        descriptor = _descriptor(path)
        target = Path(os.path.realpath(path))
        if descriptor is not None:
            # the stream may be a file in which something stands already; it has one position for all writers
            sys.stdout.flush()
            with os.fdopen(os.dup(descriptor), "w", encoding="utf-8") as file:
                file.write(text)
        elif target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as file:
                file.write(text)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(target, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".report.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp leaves it to its owner alone
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _check_place(path: Path) -> None:
    if str(path) == "-" or _descriptor(path) is not None:
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if target.exists() and not os.access(target, os.W_OK):
        raise ValueError(f"{path} cannot be written: it is there and may not be changed")
    if target.exists() and not target.is_file():
        return
    if not target.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {target.parent}; make it first")
    try:
        with tempfile.TemporaryFile(dir=target.parent):  # a full or read-only disk shows only so
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: no file can be made in {target.parent} ({error.strerror or error})"
        ) from error


def _identity(path: Path, stream: str) -> str:
    """Return what two names of one file share; ``-`` stands for ``stream``."""
    return os.path.realpath(stream if str(path) == "-" else path)


def _descriptor(path: Path) -> int | None:
    """Return the number of an open stream that ``path`` names, None for any other path."""
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(found[1]) if found else _STREAMS.get(str(path))
