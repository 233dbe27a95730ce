import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from converters import download, weights
from converters.weights import Row

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
        if fault == "page":
            status, kind, body = 200, "text/html", b"<!DOCTYPE html><p>Please sign in"
        if fault == "busy":
            status = 503
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if fault != "unsized":
            self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if method == "HEAD" or not body:
            return
        half = len(body) // 2
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
    return Row("tiny", "v1", prefix, 50.0, 75.0, 10, 0.1)


BODY = np.random.default_rng(0).bytes(700_001)
ROW = make_row(BODY)


@pytest.fixture
def served(server):
    server.bodies[ROW.file] = BODY
    return server


def refusal(row=ROW, *, options=QUICK) -> str:
    """The message of the failure, which always says what to put where, in one line."""
    with pytest.raises(download.WeightsError) as caught:
        download.fetch(row, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        row.file,
        download.source_url(row),
        f"begins with {row.sha256_prefix}",
        str(download.cache_folder()),
    ):
        assert part in message
    left = [path.name for path in download.cache_folder().glob("*")]
    assert all(name.endswith((".lock", ".damaged")) for name in left), left
    return message


def place(folder, row, body):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / row.file
    path.write_bytes(body)
    return path


def test_cache_folders_follow_the_environment(monkeypatch, tmp_path):
    assert download.cache_folder() == tmp_path / "ours" / "weights"
    assert download.torch_cache_folder() == tmp_path / "torch/hub/checkpoints"
    for name in ("JAXVISION_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert download.cache_folder() == tmp_path / "xdg/jaxvision/weights"
    assert download.torch_cache_folder() == tmp_path / "xdg/torch/hub/checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / ".cache/jaxvision/weights"
    assert download.torch_cache_folder() == tmp_path / ".cache/torch/hub/checkpoints"


@pytest.mark.torch
def test_torch_cache_folder_is_torchs(monkeypatch, tmp_path):
    hub = pytest.importorskip("torch.hub")
    assert f"{download.torch_cache_folder()}" == f"{hub.get_dir()}/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    assert f"{download.torch_cache_folder()}" == f"{hub.get_dir()}/checkpoints"


def test_source_is_torchvisions_unless_a_mirror_is_set(monkeypatch):
    assert download.source_url(ROW) == f"http://127.0.0.1:9/{ROW.file}"
    monkeypatch.delenv("JAXVISION_WEIGHTS_URL")
    assert download.source_url(ROW) == f"https://download.pytorch.org/models/{ROW.file}"


@pytest.mark.parametrize("fault", [None, "unsized"])
def test_fetch_downloads_once(served, fault):
    served.faults = [fault]
    seen = []
    path = download.fetch(ROW, progress=lambda *counts: seen.append(counts), **QUICK)
    assert path == download.cache_folder() / ROW.file
    assert path.read_bytes() == BODY
    record = path.with_name(f"{ROW.file}.sha256")
    assert record.read_text().strip() == hashlib.sha256(BODY).hexdigest()
    assert seen[-1] == (len(BODY), None if fault else len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert download.fetch(ROW, **QUICK) == path
    assert served.requests == [("GET", f"/{ROW.file}")]


@pytest.mark.parametrize("fault", ["short", "reset", "busy", "stall", "slow"])
def test_fetch_tries_again(served, fault):
    served.faults = [fault, fault]
    options = HASTY if fault in ("stall", "slow") else QUICK
    assert download.fetch(ROW, **options).read_bytes() == BODY
    assert len(served.requests) == 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("short", f"sent {len(BODY) // 2:,} of {len(BODY):,} bytes"),
        ("busy", "answered 503 Service Unavailable"),
        ("stall", "no answer or no data for 0.4 seconds"),
        ("slow", "no answer or no data for 0.4 seconds"),
    ],
)
def test_fetch_gives_up_after_three_attempts(served, fault, words):
    served.faults = [fault] * 3
    options = HASTY if fault in ("stall", "slow") else QUICK
    assert words in refusal(options=options)
    assert len(served.requests) == 3


@pytest.mark.parametrize(
    ("body", "faults", "words"),
    [
        (None, [], "answered 404 Not Found"),
        (BODY, ["page"], "is a web page and holds no weights"),
        (BODY[:-1] + b"?", [], "wrong hash"),
    ],
)
def test_fetch_does_not_repeat_what_cannot_change(server, body, faults, words):
    server.bodies[ROW.file] = body
    server.faults = faults
    assert words in refusal()
    assert len(server.requests) == 1


def test_fetch_names_a_server_that_is_not_there():
    assert "127.0.0.1:9: [Errno" in refusal()


@pytest.mark.parametrize("url", ["nonsense", "http://[", "gopher://host/"])
def test_fetch_names_a_wrong_mirror(monkeypatch, url):
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", url)
    refusal()


def test_fetch_from_a_folder(monkeypatch, tmp_path):
    place(tmp_path / "mirror", ROW, BODY)
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", (tmp_path / "mirror").as_uri())
    assert download.fetch(ROW).read_bytes() == BODY


def test_fetch_names_a_folder_that_cannot_be_written(served, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path / "file"))
    message = refusal()
    assert "cannot be written" in message and "JAXVISION_HOME" in message


def test_fetch_leaves_nothing_when_interrupted(served):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.fetch(ROW, progress=interrupt, **QUICK)
    assert [path.suffix for path in download.cache_folder().iterdir()] in (
        [],
        [".lock"],
    )


def test_fetch_clears_what_a_killed_download_left(served):
    left = place(download.cache_folder(), ROW, b"")
    left = left.rename(left.with_name(f".{left.stem}.abc123.pth"))
    download.fetch(ROW, **QUICK)
    assert not left.exists()


def test_file_put_into_the_cache_by_hand_is_taken():
    path = place(download.cache_folder(), ROW, BODY)
    assert download.fetch(ROW) == path
    record = path.with_name(f"{ROW.file}.sha256")
    assert record.read_text().strip() == hashlib.sha256(BODY).hexdigest()


def test_read_only_cache_is_used(monkeypatch):
    path = place(download.cache_folder(), ROW, BODY)

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(download.files, "write_text", refuse)
    monkeypatch.setattr(download, "FileLock", refuse)
    assert download.fetch(ROW) == path


@pytest.mark.parametrize("damage", [BODY[:-7], BODY[:9] + b"!" + BODY[10:], b""])
def test_damaged_cache_is_set_aside_and_fetched_again(served, damage):
    path = download.fetch(ROW, **QUICK)
    path.write_bytes(damage)
    with pytest.warns(UserWarning, match="is damaged; it is kept as"):
        assert download.fetch(ROW, **QUICK) == path
    assert path.read_bytes() == BODY
    assert path.with_name(f"{ROW.file}.damaged").read_bytes() == damage
    assert len(served.requests) == 2


def test_damaged_cache_without_network_is_an_error():
    place(download.cache_folder(), ROW, BODY[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        assert "Connection refused" in refusal()


def test_full_hash_is_compared_where_it_is_known(served):
    path = download.fetch(ROW, **QUICK)
    record = path.with_name(f"{ROW.file}.sha256")
    record.write_text(ROW.sha256_prefix + "0" * 56)  # right in the first 8 digits
    with pytest.warns(UserWarning, match="is damaged"):
        download.fetch(ROW, **QUICK)
    assert len(served.requests) == 2
    record.write_text("scribble")  # no hash: as if there were none
    download.fetch(ROW, **QUICK)
    assert record.read_text().strip() == hashlib.sha256(BODY).hexdigest()
    assert len(served.requests) == 2


def test_torchs_cache_comes_first_and_is_not_written(served):
    path = place(download.torch_cache_folder(), ROW, BODY)
    assert download.fetch(ROW, **QUICK) == path
    assert served.requests == [] and not download.cache_folder().exists()
    assert list(path.parent.iterdir()) == [path]


def test_damaged_file_in_torchs_cache_is_named_and_skipped(served):
    path = place(download.torch_cache_folder(), ROW, BODY[1:])
    with pytest.warns(UserWarning, match=f"{path} does not have the SHA-256"):
        assert download.fetch(ROW, **QUICK).parent == download.cache_folder()
    assert path.read_bytes() == BODY[1:] and list(path.parent.iterdir()) == [path]


FETCH = """
import sys
from converters import download, weights
row = weights.Row("tiny", "v1", sys.argv[1], 50.0, 75.0, 10, 0.1)
print("ready", flush=True)
sys.stdin.readline()
print(download.fetch(row))
"""


def test_two_processes_download_once(served):
    served.faults = ["pause"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-W", "error::UserWarning", "-c", FETCH]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    workers = [
        subprocess.Popen([*command, ROW.sha256_prefix], env=environment, **pipes)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=30)[0].strip() for worker in workers]
    assert answers == [str(download.cache_folder() / ROW.file)] * 2
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(served.requests) == 1


def test_threads_download_once(served):
    served.faults = ["pause"]
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(download.fetch(ROW)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4 and len(served.requests) == 1


def test_reachable_asks_once(served):
    assert download.reachable(ROW, timeout=5)
    assert served.requests == [("HEAD", f"/{ROW.file}")]
    assert download.reachable(timeout=5)  # a 404 for the folder is an answer, too
    assert not download.reachable(make_row(b"not served"), timeout=5)
    served.faults = ["page"]
    assert not download.reachable(ROW, timeout=5)


def test_reachable_keeps_its_time(served, monkeypatch):
    served.faults = ["slow", "slow"]
    began = time.monotonic()
    assert not download.reachable(ROW, timeout=0.2)
    assert not download.reachable(timeout=0.2)

    def hang(*args, **options):  # as the look-up of a name does without a network
        time.sleep(2)

    monkeypatch.setattr("socket.getaddrinfo", hang)
    assert not download.reachable(timeout=0.2)
    assert time.monotonic() - began < 2


def test_reachable_is_false_where_nothing_listens(monkeypatch):
    assert not download.reachable(timeout=5)
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", "nonsense")
    assert not download.reachable(timeout=5)


def arrays():
    rng = np.random.default_rng(1)
    return {
        "conv.weight": rng.normal(size=(3, 2, 2, 2)).astype(np.float32).T,
        "fc.bias": rng.normal(size=5),
        "bn.num_batches_tracked": np.array(7),
    }


def assert_same(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array, strict=True)


SOURCE = hashlib.sha256(BODY).hexdigest()


def test_converted_copy_comes_back_to_the_bit():
    assert download.read_params(ROW) is None
    path = download.write_params(ROW, arrays(), source_sha256=SOURCE)
    assert path == download.cached_params_path(ROW)
    assert path.name == f"tiny-{ROW.sha256_prefix}.safetensors"
    assert_same(download.read_params(ROW), arrays())
    assert_same(weights.load_state_dict(path), arrays())
    assert download.is_cached(ROW)


def test_any_flipped_bit_in_the_converted_copy_is_found():
    path = download.write_params(ROW, arrays(), source_sha256=SOURCE)
    whole = path.read_bytes()
    for position in range(0, len(whole), 5):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = download.read_params(ROW)
        assert read is None, whole[max(0, position - 20) : position + 20]


def test_damaged_converted_copy_is_set_aside():
    path = download.write_params(ROW, arrays(), source_sha256=SOURCE)
    damaged = path.read_bytes()[:-1]
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="is damaged"):
        assert download.read_params(ROW) is None
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert not download.is_cached(ROW)


def test_converted_copy_of_another_file_is_not_taken():
    download.write_params(ROW, arrays(), source_sha256="0" * 64)
    with pytest.warns(UserWarning, match="is damaged"):
        assert download.read_params(ROW) is None


@pytest.fixture
def torch_row(server, monkeypatch):
    """A row of the table whose file the server has, as torch wrote it."""
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    tensors = {name: torch.tensor(array.copy()) for name, array in arrays().items()}
    torch.save(tensors | {"half": torch.ones(3).half()}, buffer)
    row = make_row(buffer.getvalue())
    server.bodies[row.file] = buffer.getvalue()
    monkeypatch.setattr(weights, "TABLE", (row,))
    return row


@pytest.mark.torch
def test_torch_is_needed_once(server, torch_row, monkeypatch):
    expected = arrays() | {"half": np.ones(3, np.float32)}
    loaded, row = download.imagenet_state_dict("tiny")
    assert row == torch_row
    assert_same(loaded, expected)
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    monkeypatch.setattr(weights, "has_torch", lambda: False)
    (download.cache_folder() / row.file).unlink()
    assert download.is_cached(row)
    assert_same(download.imagenet_state_dict("tiny", "v1")[0], expected)
    assert len(server.requests) == 1


@pytest.mark.torch
def test_damaged_converted_copy_is_made_again(server, torch_row):
    expected, row = download.imagenet_state_dict("tiny")
    path = download.cached_params_path(row)
    path.write_bytes(path.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.warns(UserWarning, match="is damaged"):
        assert_same(download.imagenet_state_dict("tiny")[0], expected)
    assert_same(download.read_params(row), expected)
    assert len(server.requests) == 1


@pytest.mark.torch
def test_copy_that_cannot_be_kept_is_a_warning(server, torch_row, monkeypatch):
    def refuse(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.safetensors.numpy, "save_file", refuse)
    with pytest.warns(UserWarning, match="no converted copy.*No space left"):
        assert "fc.bias" in download.imagenet_state_dict("tiny")[0]
    assert not download.cached_params_path(torch_row).exists()


@pytest.mark.torch
def test_torchs_cache_is_enough_without_network(server, torch_row, monkeypatch):
    place(download.torch_cache_folder(), torch_row, server.bodies[torch_row.file])
    assert download.is_cached(torch_row)
    assert "half" in download.imagenet_state_dict("tiny")[0]
    assert server.requests == []


def test_missing_torch_is_said_before_a_download(served, monkeypatch):
    monkeypatch.setattr(weights, "TABLE", (ROW,))
    monkeypatch.setattr(weights, "has_torch", lambda: False)
    with pytest.raises(download.WeightsError, match=r"jaxvision\[torch\]"):
        download.imagenet_state_dict("tiny")
    assert served.requests == []
    assert not download.is_cached(ROW)
