"""Files written without torch: torch reads the same bits."""

import collections
import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from converters.torch_file import read_torch, write_torch
from tests.torch_files import KINDS, bits


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def written(rng):
    arrays = {
        "turned": rng.normal(size=(3, 4)).astype(np.float32).T,
        "number": np.array(7),
        "none": np.empty((0, 3, 2), np.float32),
        "swapped": np.arange(3, dtype=">f8"),
        "strided": np.arange(20, dtype=np.int16)[::3],
        "ü": np.array([True, False]),
    }
    for kind in KINDS:
        dtype = getattr(ml_dtypes, kind, kind)
        arrays[kind] = rng.integers(0, 2, 5).astype(dtype)
    return arrays


def test_written_files_are_aligned_repeatable_and_read_again(tmp_path):
    arrays = written(np.random.default_rng(0))
    write_torch(tmp_path / "a.pth", arrays)
    write_torch(tmp_path / "b.pth", arrays)
    raw = (tmp_path / "a.pth").read_bytes()
    assert raw == (tmp_path / "b.pth").read_bytes()
    ours = read_torch(tmp_path / "a.pth")
    assert list(ours) == list(arrays)
    for key, array in arrays.items():
        assert ours[key].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours[key], array)
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        assert file.testzip() is None
        for info in file.infolist():
            lengths = struct.unpack_from("<2H", raw, info.header_offset + 26)
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED


@pytest.mark.torch
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(torch, tmp_path, mmap):
    arrays = written(np.random.default_rng(1))
    write_torch(tmp_path / "a.pth", arrays)
    theirs = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mmap)
    assert type(theirs) is collections.OrderedDict and list(theirs) == list(arrays)
    for key, x in theirs.items():
        array = arrays[key].astype(arrays[key].dtype.newbyteorder("="))
        assert str(x.dtype) == f"torch.{array.dtype.name}" and x.is_contiguous()
        assert x.shape == array.shape and bits(torch, x) == array.tobytes()
    torch.save(theirs, tmp_path / "again.pth")


def test_writer_refuses_what_torch_has_not_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="x is <U1, which torch has not"):
        write_torch(tmp_path / "a.pth", {"x": np.array(["a"])})
    assert not list(tmp_path.iterdir())
