"""The converted copy of a weight file: verified, and made once."""

import hashlib
import io
import os
import sys
import warnings

import numpy as np
import pytest

from converters import cache, download, weights
from converters.torch_file import write_torch
from tests.weights_server import (  # noqa: F401  fixtures among them
    BODY,
    ROW,
    caches,
    make_row,
    place,
    served,
    server,
)


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
    assert path == cache.cached_params_path(ROW)
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
def test_the_file_is_needed_once(server, torch_row):
    expected = arrays() | {"half": np.ones(3, np.float32)}
    loaded, row = download.imagenet_state_dict("tiny")
    assert row == torch_row
    assert_same(loaded, expected)
    (cache.cache_folder() / row.file).unlink()
    assert download.is_cached(row)
    assert_same(download.imagenet_state_dict("tiny", which="v1")[0], expected)
    assert len(server.requests) == 1


@pytest.mark.torch
def test_damaged_converted_copy_is_made_again(server, torch_row):
    expected, row = download.imagenet_state_dict("tiny")
    path = cache.cached_params_path(row)
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
    assert not cache.cached_params_path(torch_row).exists()


@pytest.mark.torch
def test_torchs_cache_is_enough_without_network(server, torch_row, monkeypatch):
    place(cache.torch_cache_folder(), torch_row, server.bodies[torch_row.file])
    assert download.is_cached(torch_row)
    assert "half" in download.imagenet_state_dict("tiny")[0]
    assert server.requests == []


def test_a_download_is_converted_without_torch(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    write_torch(tmp_path / "tiny.pth", arrays())
    body = (tmp_path / "tiny.pth").read_bytes()
    row = make_row(body)
    server.bodies[row.file] = body
    monkeypatch.setattr(weights, "TABLE", (row,))
    assert_same(download.imagenet_state_dict("tiny")[0], arrays())
    assert_same(download.read_params(row), arrays())


def open_to_everybody(path):
    """The folder of `path`, and the home above it, as a careless share has them."""
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o777)


def planted(torch_row):
    """A copy whose own hashes are right and whose weights are somebody's."""
    other = {name: array + 1 for name, array in arrays().items()}
    full = torch_row.sha256_prefix + "0" * 56
    path = download.write_params(torch_row, other, source_sha256=full)
    open_to_everybody(path)
    return path


@pytest.mark.torch
@pytest.mark.parametrize("how", ["mode", "owner", "link"])
def test_a_copy_that_anybody_may_have_planted_is_made_again(
    server, torch_row, tmp_path, how
):
    path = planted(torch_row)
    if how == "mode":
        path.chmod(0o666)
    elif how == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 12345, 12345)
    else:
        path.rename(tmp_path / "theirs")
        path.symlink_to(tmp_path / "theirs")
    with pytest.warns(UserWarning, match="may be anybody's and is not used"):
        assert_same(
            download.imagenet_state_dict("tiny")[0],
            arrays() | {"half": np.ones(3, np.float32)},
        )
    assert not path.is_symlink() and path.stat().st_mode & 0o022 == 0
    download.imagenet_state_dict("tiny")  # ours, though the folder is everybody's
    assert len(server.requests) == 1


def test_a_copy_in_a_closed_folder_is_taken_whoever_made_it():
    path = download.write_params(ROW, arrays(), source_sha256=SOURCE)
    path.chmod(0o664)
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
    assert download.read_params(ROW) is not None
