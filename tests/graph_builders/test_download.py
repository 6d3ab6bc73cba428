import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from graph_builders.datasets import DownloadError, fetch

DATA = bytes(range(256)) * 500
SHA256 = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves DATA at /set.bin; /cut.bin stops in the middle; anything else is not there."""

    requests: list[str]

    def do_GET(self):
        self.requests.append(self.path)
        if self.path not in ("/set.bin", "/cut.bin"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA if self.path == "/set.bin" else DATA[: len(DATA) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("FreshHandler", (Handler,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", handler.requests
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("progress", [False, True])
def test_a_file_is_fetched_once(server, tmp_path, progress):
    url, requests = server
    path = fetch(f"{url}/set.bin", SHA256, cache_folder=tmp_path, progress=progress)
    assert path.read_bytes() == DATA
    assert path == tmp_path / "set.bin"
    assert fetch(f"{url}/set.bin", SHA256, cache_folder=tmp_path, progress=progress) == path
    assert requests == ["/set.bin"]


def test_a_changed_cache_is_fetched_again(server, tmp_path):
    url, requests = server
    path = fetch(f"{url}/set.bin", SHA256, cache_folder=tmp_path, file_name="my.bin", progress=False)
    path.write_bytes(DATA[:-1])
    assert fetch(f"{url}/set.bin", SHA256, cache_folder=tmp_path, file_name="my.bin").read_bytes() == DATA
    assert len(requests) == 2


def test_a_wrong_checksum_leaves_no_file(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match=r"does not have the expected SHA-256 0000.*by hand"):
        fetch(f"{url}/set.bin", "0" * 64, cache_folder=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_no_file_and_can_be_repeated(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match="cut short|could not be fetched"):  # noqa: RUF043
        fetch(f"{url}/cut.bin", SHA256, cache_folder=tmp_path, file_name="set.bin", progress=False)
    assert list(tmp_path.iterdir()) == []
    assert fetch(f"{url}/set.bin", SHA256, cache_folder=tmp_path, progress=False).read_bytes() == DATA


def test_an_absent_file_and_an_absent_server(server, tmp_path):
    url, _ = server
    with pytest.raises(DownloadError, match=r"404.*check the network"):
        fetch(f"{url}/absent.bin", SHA256, cache_folder=tmp_path, progress=False)
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch("http://127.0.0.1:9/set.bin", SHA256, cache_folder=tmp_path, progress=False, timeout=2.0)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        fetch("http://127.0.0.1/x", "md5:abc", cache_folder=tmp_path)
    with pytest.raises(ValueError, match="without a file name"):
        fetch("http://127.0.0.1/", SHA256, cache_folder=tmp_path)
