"""Fetching: caches, hashes, locks and every fault of a server."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from converters import cache, download
from tests.weights_server import (  # noqa: F401  fixtures among them
    BODY,
    HASTY,
    QUICK,
    ROW,
    caches,
    make_row,
    place,
    refusal,
    served,
    server,
)


def test_cache_folders_follow_the_environment(monkeypatch, tmp_path):
    assert cache.cache_folder() == tmp_path / "ours" / "weights"
    assert cache.torch_cache_folder() == tmp_path / "torch/hub/checkpoints"
    for name in ("JAXVISION_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg/jaxvision/weights"
    assert cache.torch_cache_folder() == tmp_path / "xdg/torch/hub/checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache/jaxvision/weights"
    assert cache.torch_cache_folder() == tmp_path / ".cache/torch/hub/checkpoints"


@pytest.mark.torch
def test_torch_cache_folder_is_torchs(monkeypatch, tmp_path):
    hub = pytest.importorskip("torch.hub")
    assert f"{cache.torch_cache_folder()}" == f"{hub.get_dir()}/checkpoints"
    monkeypatch.delenv("TORCH_HOME")
    assert f"{cache.torch_cache_folder()}" == f"{hub.get_dir()}/checkpoints"


def test_source_is_torchvisions_unless_a_mirror_is_set(monkeypatch):
    assert download.source_url(ROW) == f"http://127.0.0.1:9/{ROW.file}"
    monkeypatch.delenv("JAXVISION_WEIGHTS_URL")
    assert download.source_url(ROW) == f"https://download.pytorch.org/models/{ROW.file}"


@pytest.mark.parametrize("fault", [None, "unsized"])
def test_fetch_downloads_once(served, fault):
    served.faults = [fault]
    seen = []
    path = download.fetch(ROW, progress=lambda *counts: seen.append(counts), **QUICK)
    assert path == cache.cache_folder() / ROW.file
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


@pytest.mark.parametrize("as_text", [Path.as_uri, str])
def test_fetch_from_a_folder(monkeypatch, tmp_path, as_text):
    file = place(tmp_path / "mir ror", ROW, BODY)
    monkeypatch.setenv("JAXVISION_WEIGHTS_URL", as_text(file.parent))
    assert download.fetch(ROW).read_bytes() == BODY
    file.write_bytes(BODY[:-1] + b"?")
    (cache.cache_folder() / ROW.file).unlink()
    assert "wrong hash" in refusal()
    file.unlink()
    assert "No such file" in refusal()


def test_fetch_names_a_folder_that_cannot_be_written(served, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXVISION_HOME", str(tmp_path / "file"))
    message = refusal()
    assert "cannot be written" in message and "JAXVISION_HOME" in message


def test_file_put_into_the_cache_by_hand_is_taken():
    path = place(cache.cache_folder(), ROW, BODY)
    assert download.fetch(ROW) == path
    record = path.with_name(f"{ROW.file}.sha256")
    assert record.read_text().strip() == hashlib.sha256(BODY).hexdigest()


def test_read_only_cache_is_used(monkeypatch):
    path = place(cache.cache_folder(), ROW, BODY)

    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(download.files, "write_text", refuse)
    monkeypatch.setattr("jaxvision.download.FileLock", refuse)
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
    place(cache.cache_folder(), ROW, BODY[:-1])
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
    path = place(cache.torch_cache_folder(), ROW, BODY)
    assert download.fetch(ROW, **QUICK) == path
    assert served.requests == [] and not cache.cache_folder().exists()
    assert list(path.parent.iterdir()) == [path]


def test_damaged_file_in_torchs_cache_is_named_and_skipped(served):
    path = place(cache.torch_cache_folder(), ROW, BODY[1:])
    with pytest.warns(UserWarning, match=f"{path} does not have the SHA-256"):
        assert download.fetch(ROW, **QUICK).parent == cache.cache_folder()
    assert path.read_bytes() == BODY[1:] and list(path.parent.iterdir()) == [path]


FETCH = """
import sys
from converters import download, weights
row = weights.Row("tiny", "v1", sys.argv[1], 50, 75, 10, float(sys.argv[2]))
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
        subprocess.Popen(
            [*command, ROW.sha256_prefix, str(ROW.mib)], env=environment, **pipes
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=30)[0].strip() for worker in workers]
    assert answers == [str(cache.cache_folder() / ROW.file)] * 2
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
    assert download.reachable(row=ROW, timeout=5)
    assert served.requests == [("HEAD", f"/{ROW.file}")]
    assert download.reachable(timeout=5)  # a 404 for the folder is an answer, too
    assert not download.reachable(row=make_row(b"not served"), timeout=5)
    served.faults = ["page"]
    assert not download.reachable(row=ROW, timeout=5)


def test_reachable_keeps_its_time(served, monkeypatch):
    served.faults = ["slow", "slow"]
    began = time.monotonic()
    assert not download.reachable(row=ROW, timeout=0.2)
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
