"""Downloads that break off, crawl or never end, and who is waited for."""

import hashlib
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from converters import cache, download, weights
from jaxvision import http_file
from jaxvision.download import DownloadError
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


@pytest.fixture
def part():
    """What an earlier start left: two fifths of the file."""
    folder = cache.cache_folder()
    folder.mkdir(parents=True)
    path = folder / f"{ROW.file}.part"
    path.write_bytes(BODY[:300_000])
    return path


def test_a_broken_download_goes_on_at_the_next_attempt_and_the_next_start(served):
    served.resumes = True
    served.faults = ["short"] * 3
    seen = []
    message = refusal()
    kept = len(BODY) - len(BODY) // 8 - 1  # three times half of what is left
    assert (
        f"; {kept:,} bytes are kept, and the next start goes on from there" in message
    )
    path = download.fetch(ROW, progress=lambda *now: seen.append(now), **QUICK)
    assert path.read_bytes() == BODY
    assert len(served.ranges) == 3 and served.ranges[-1] == kept
    assert seen[0][0] > kept and seen[-1] == (len(BODY), len(BODY))
    assert not path.with_name(f"{ROW.file}.part").exists()
    record = path.with_name(f"{ROW.file}.sha256").read_text().strip()
    assert record == hashlib.sha256(BODY).hexdigest()


def test_an_interrupted_download_is_kept(served, part):
    served.resumes = True

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download.fetch(ROW, progress=interrupt, **QUICK)
    assert len(part.read_bytes()) > 300_000
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    assert served.ranges[0] == 300_000 < served.ranges[1]


def test_a_server_that_cannot_resume_starts_anew(served, part):
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    assert served.ranges == [300_000] and len(served.requests) == 1


@pytest.mark.parametrize("fault", ["elsewhere", None])
def test_a_part_that_does_not_fit_is_fetched_anew(served, part, fault):
    served.resumes, served.faults = True, [fault]
    if fault is None:
        part.write_bytes(b"?" * 300_000)  # another file's; only the hash can tell
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    assert len(served.requests) == 2 and served.ranges == [300_000]


def test_a_part_that_is_whole_or_too_long_is_seen(served, part):
    served.resumes = True
    part.write_bytes(BODY)
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    assert served.requests == []
    (cache.cache_folder() / ROW.file).unlink()
    part.write_bytes(BODY + b"?")  # the server answers 416
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    (cache.cache_folder() / ROW.file).unlink()
    part.write_bytes(BODY + bytes(download.SLACK + 1))
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY


def test_a_part_that_is_a_link_is_not_written_through(served, part, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(BODY[:300_000])
    part.unlink()
    part.symlink_to(victim)
    assert not download.fetch(ROW, **QUICK).is_symlink()
    assert victim.read_bytes() == BODY[:300_000]


def test_attempts_that_bring_something_are_not_counted(served, monkeypatch):
    monkeypatch.setattr("jaxvision.download.STEP", 1000)
    served.resumes, served.faults = True, ["short"] * 6
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    assert len(served.requests) == 7


def test_a_server_that_drips_is_left(served):
    served.resumes, served.faults = True, ["drip"] * 3
    began = time.monotonic()
    message = refusal(options=HASTY)
    assert time.monotonic() - began < 10
    assert "too slow" in message and "bytes are kept" in message
    assert download.fetch(ROW, **QUICK).read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("endless", "sent more than the file's 700,001 bytes"),
        (None, "another file, of"),
    ],
)
def test_another_size_does_not_fill_the_disk(served, fault, words):
    served.faults = [fault]
    row = ROW
    if fault is None:
        row = replace(ROW, mib=0.5)
    assert words in refusal(row)
    assert len(served.requests) == 1


def test_headers_that_drip_are_not_waited_for():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        http_file.within(0.2, lambda: time.sleep(3))
    assert time.monotonic() - began < 2
    with pytest.raises(ZeroDivisionError):
        http_file.within(5, lambda: 1 // 0)


HOLD = """
import sys
from converters import cache
from jaxvision import download
with download._locked(cache.cache_folder() / sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_whoever_holds_the_lock_is_named(served, monkeypatch):
    monkeypatch.setattr("jaxvision.download.PATIENCE", 0.2)
    cache.cache_folder().mkdir(parents=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, ROW.file],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    timer = threading.Timer(1, lambda: other.communicate("go\n"))
    timer.start()
    words = f"waiting for {ROW.file}, which process {other.pid} on .*, since 20"
    with pytest.warns(UserWarning, match=words):
        assert download.fetch(ROW, **QUICK).read_bytes() == BODY
    timer.join()
    assert not list(cache.cache_folder().glob("*.json"))


def test_a_forged_prefix_is_not_enough_where_the_hash_is_known(served, monkeypatch):
    forged = ROW.sha256_prefix + "0" * 56
    monkeypatch.setattr(weights, "KNOWN", (forged,))
    assert ROW.sha256 == forged
    place(cache.torch_cache_folder(), ROW, BODY)
    with pytest.warns(UserWarning, match="does not have the SHA-256"):
        with pytest.raises(DownloadError, match=f"SHA-256 is {forged}"):
            download.fetch(ROW, **QUICK)
    assert not (cache.cache_folder() / ROW.file).exists()


def test_known_hashes_are_those_of_rows():
    rows = [row for row in weights.TABLE if row.sha256]
    assert sorted(row.sha256 for row in rows) == sorted(weights.KNOWN)
    assert all(len(bytes.fromhex(full)) == 32 for full in weights.KNOWN)
    assert make_row(b"x").sha256 == ""
