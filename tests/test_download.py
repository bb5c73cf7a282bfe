"""Shards at ``http`` URLs: what a server may do wrong."""

from __future__ import annotations

import io
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image

from dap.data.open import open_source
from dap.errors import SourceError
from dap.storage.cache import cache_folder

pytest.importorskip("aiohttp")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard of one image."""
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "PNG")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, data in (("0.cls", b"0"), ("0.png", stream.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return tmp_path / "set.tar"


@contextmanager
def server(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """A server on this machine that gives each connection and its request to ``answer``; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        answer(connection, connection.recv(1 << 16).decode())

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-"])
def test_a_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr("dap.data.download.STALL_SECONDS", 0.5)
    ended = threading.Event()

    def drip(connection: socket.socket, request: str) -> None:
        connection.sendall(head)
        with suppress(OSError):
            while not ended.wait(0.05):
                connection.sendall(b"x")

    with (
        server(drip) as url,
        pytest.raises(SourceError, match=r"x\.tar: cannot be fetched: the server sent \d+"),
    ):
        open_source(f"{url}/x.tar")
    ended.set()
    assert not list(cache_folder().rglob("*x.tar*")) and not list(cache_folder().rglob(".tmp-*"))


def test_shards_come_by_http(shard: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        file = shard.with_name(request.split()[1].rpartition("/")[2])
        data, status = (file.read_bytes(), b"200 OK") if file.is_file() else (b"", b"404 Not Found")
        if "cut" in request:
            data = data[:100]
        elif "classes.json" in request:
            status = b"500 Out Of Order"
        size = shard.stat().st_size if "cut" in request else len(data)
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, size) + data)

    with server(answer) as url:
        assert len(open_source(f"{url}/set.tar")) == len(open_source(shard))
        assert "classes.json: cannot be fetched (ClientResponseError: 500" in caplog.text
        assert "pack.json" not in caplog.text
        with pytest.raises(SourceError, match=r"cut/set\.tar: cannot be fetched \(ClientPayloadError"):
            open_source(f"{url}/cut/set.tar")
        with pytest.raises(SourceError, match=r"gone\.tar: cannot be fetched \(FileNotFoundError"):
            open_source(f"{url}/gone.tar")
