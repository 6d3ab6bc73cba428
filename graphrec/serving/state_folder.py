"""The folder of a ranker's log and checkpoint: held by one process, tied to one day's folder."""

import fcntl
import os
from pathlib import Path

from graphrec.serving.day_folder import DayFolder, DayFolderError


def lock_folder(state: Path) -> int:
    """Make the folder and hold it for this process alone; return the handle, which closing lets go.

    Raises:
        DayFolderError: there is something else at the path.
        RuntimeError: another process holds it.

    """
    try:
        state.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DayFolderError(
            f"{state} is no folder, or lies below a file: give a folder for the state"
        ) from error
    handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise RuntimeError(f"{state} is open in another ranker: close it, or give another state") from error
    return handle


def check_state(state: Path, day: DayFolder) -> None:
    """Raise if a state is of another day's folder, or does not say of which.

    Raises:
        DayFolderError: it does not belong to the day's folder.

    """
    path = state / "day"
    if path.exists():
        if path.read_text() != day.identity:
            raise DayFolderError(
                f"{state} holds the events and weights of another day's folder: give a state of its own"
            )
        return
    log = state / "events.log"
    if log.is_file() and log.stat().st_size:
        raise DayFolderError(
            f"{state} has a log of events but no file {path.name!r}, which says of which day's folder it is: "
            "restore all its files from one copy"
        )


def tie_state(state: Path, day: DayFolder) -> None:
    """Write of which day's folder a state is, when it is first used."""
    path = state / "day"
    if path.exists():
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(day.identity)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
