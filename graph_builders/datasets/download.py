"""Fetch a data set's file from its home page: checked, cached, with progress."""

from pathlib import Path
from urllib.parse import urlsplit


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not the file that was expected."""


def fetch(
    url: str,
    sha256: str,
    *,
    cache_folder: str | Path | None = None,
    file_name: str | None = None,
    progress: bool = True,
    timeout: float = 30.0,
) -> Path:
    """Return the path of a file that is in the cache or has just been downloaded.

    The file appears in the cache only when it is whole and its checksum is right. A cached file is
    checked again at each call, and fetched again if it has changed.

    Args:
        url: where the file lies.
        sha256: the expected checksum, 64 hexadecimal digits.
        cache_folder: default: the user's cache folder of the operating system.
        file_name: name in the cache; default: the last part of the URL.
        progress: show a progress bar.
        timeout: seconds to wait for the server to connect or to send more.

    Raises:
        DownloadError: the server cannot be reached, answers with an error, stops in the middle, or sends
            a file with another checksum. The message says what to do.

    """
    import pooch  # imports requests: slow
    import requests

    if len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef"):
        raise ValueError(f"sha256 must have 64 hexadecimal digits, got {sha256!r}")
    folder = Path(cache_folder) if cache_folder is not None else Path(pooch.os_cache("graphrec"))
    name = file_name or Path(urlsplit(url).path).name
    if not name:
        raise ValueError(f"{url} ends without a file name: pass file_name")
    downloader = pooch.HTTPDownloader(progressbar=_RichBar(name) if progress else False, timeout=timeout)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # it prints the URL and the checksum of each new file
    by_hand = f"or download it by hand and pass its path (the cache is {folder})"
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=folder, downloader=downloader))
    except ValueError as error:
        raise DownloadError(
            f"{url} does not have the expected SHA-256 {sha256}: it was cut short on the way or has changed. "
            f"Try again, {by_hand}."
        ) from error
    except (requests.RequestException, OSError) as error:
        raise DownloadError(f"{url} could not be fetched ({error}): check the network, {by_hand}.") from error
    finally:
        logger.setLevel(level)


class _RichBar:
    """A progress bar with the four members that pooch's downloader uses."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        self.total = 0
        self._progress = Progress("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._task = self._progress.add_task(name, total=None)

    def update(self, amount: int) -> None:
        if not self._progress.live.is_started:
            self._progress.start()
        self._progress.update(self._task, total=self.total or None, advance=amount)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop()
