"""A server of weights on 127.0.0.1 with faults to order, and caches of its own."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from converters import cache, download
from converters.weights import Row
from jaxvision.download import DownloadError

QUICK = {"timeout": 10.0, "backoff": 0.01}
HASTY = {"timeout": 0.4, "backoff": 0.01}  # for the faults that keep one waiting


class Server(ThreadingHTTPServer):
    """Serves `bodies` by file name, each request as the next of `faults` says."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies = {}
        self.faults = []
        self.requests = []
        self.ranges = []
        self.resumes = False  # whether it sends a part where one is asked for
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that has gone away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def answer(self, method):
        server = self.server
        server.requests.append((method, self.path))
        fault = server.faults.pop(0) if server.faults else None
        if fault == "slow":
            time.sleep(1.5)
        if fault == "reset":
            return  # the connection ends without a status line
        body = server.bodies.get(self.path.strip("/"))
        status, kind = 200 if body else 404, "application/octet-stream"
        whole, begin = len(body or b""), 0
        if wanted := self.headers.get("Range"):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            server.ranges.append(begin)
        if begin and server.resumes and body:
            status = 206 if begin < whole else 416
            body = body[begin:]
        if fault == "page":
            status, kind, body = 200, "text/html", b"<!DOCTYPE html><p>Please sign in"
        if fault == "busy":
            status = 503
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 206:
            begin += 1 if fault == "elsewhere" else 0
            self.send_header("Content-Range", f"bytes {begin}-{whole - 1}/{whole}")
        if fault not in ("unsized", "endless"):
            self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if method == "HEAD" or not body:
            return
        half = len(body) // 2
        while fault == "endless":
            self.wfile.write(body)
        if fault == "drip":
            for byte in body[:100]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
            return
        self.wfile.write(body[:half])
        if fault == "stall":
            self.wfile.flush()
            time.sleep(1.5)
        if fault == "pause":
            time.sleep(0.3)
        if fault != "short":
            self.wfile.write(body[half:])


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("JAXVISION_WEIGHTS_URL", server.url + "/")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Both caches in a temporary folder, and no proxy on the way to the server."""
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def make_row(body: bytes) -> Row:
    prefix = hashlib.sha256(body).hexdigest()[:8]
    return Row("tiny", "v1", prefix, 50.0, 75.0, 10, len(body) / 2**20)


BODY = np.random.default_rng(0).bytes(700_001)
ROW = make_row(BODY)


@pytest.fixture
def served(server):
    server.bodies[ROW.file] = BODY
    return server


def refusal(row=ROW, *, options=QUICK) -> str:
    """The message of the failure, which always says what to put where, in one line."""
    with pytest.raises(DownloadError) as caught:
        download.fetch(row, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        row.file,
        download.source_url(row),
        f"begins with {row.sha256_prefix}",
        str(cache.cache_folder()),
    ):
        assert part in message
    left = [path.name for path in cache.cache_folder().glob("*")]
    assert all(name.endswith((".lock", ".damaged", ".part")) for name in left), left
    assert any(name.endswith(".part") for name in left) == ("next start" in message)
    return message


def place(folder, row, body):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / row.file
    path.write_bytes(body)
    return path
