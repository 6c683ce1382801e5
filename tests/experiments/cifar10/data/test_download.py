"""A download is there whole or not at all, and every failure is one line."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from experiments.cifar10.data.download import fetch
from experiments.cifar10.data.formats import DataError

CONTENT = b"the whole file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves the content whole, cut short, altered, or not at all, as the path says."""

    def do_GET(self) -> None:
        body = b"another file" if self.path == "/altered" else CONTENT
        self.send_response(503 if self.path == "/unavailable" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5] if self.path == "/cut" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine, which no proxy is asked for."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def failure(url: str, folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        fetch(url, SHA256, folder)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{url}: expected to download it, got ")
    return message


def test_whole_file_gets_its_name(
    tmp_path: Path, address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    path = fetch(f"{address}/whole", SHA256, folder)
    assert path == folder / "whole"
    assert path.read_bytes() == CONTENT
    assert os.listdir(folder) == ["whole"]
    output = capfd.readouterr()
    assert output.out == ""
    assert f"{len(CONTENT)}/{len(CONTENT)} bytes" in output.err


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("altered", f"expected sha256:{SHA256} but got"),
        ("unavailable", "HTTPError: 503 Server Error"),
        ("cut", f"IncompleteRead: IncompleteRead(5 bytes read, {len(CONTENT) - 5} more expected)"),
    ],
)
def test_failed_download_leaves_nothing(
    tmp_path: Path, address: str, path: str, expected: str
) -> None:
    assert expected in failure(f"{address}/{path}", tmp_path)
    assert os.listdir(tmp_path) == []


def test_failed_download_leaves_the_old_file(tmp_path: Path, address: str) -> None:
    (tmp_path / "cut").write_bytes(b"old")
    failure(f"{address}/cut", tmp_path)
    assert (tmp_path / "cut").read_bytes() == b"old"


def test_unreachable_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # port 1 is reserved, nothing listens there
    assert "ConnectionRefusedError" in failure("http://127.0.0.1:1/whole", tmp_path)


def test_folder_that_cannot_be_written(tmp_path: Path, address: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "NotADirectoryError" in failure(f"{address}/whole", tmp_path / "file" / "folder")
