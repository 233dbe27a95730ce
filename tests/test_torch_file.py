"""torch's files without torch: to the bit what torch itself makes of them."""

import argparse
import collections
import copy
import importlib
import pathlib
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.torch_file import TorchFileError, read_torch, write_torch
from converters.torchvision_import import import_torchvision
from converters.weights import TABLE, load_state_dict
from tests.torch_files import (
    FLOATS,
    KINDS,
    archive,
    assert_same,
    dict_of,
    name,
    number,
    storage,
    stream,
    tar,
    tar_storages,
    tar_tensor,
    tar_tensors,
    tensor,
    text,
    tuple_of,
)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def check(torch, folder, value, **options):
    """Written by torch and read by us: what went in, and what torch makes of it."""
    path = folder / "file.pth"
    torch.save(value, path, **options)
    ours = read_torch(path)
    assert_same(torch, ours, value)
    if options.get("_use_new_zipfile_serialization", True):
        # torch does not read its youngest types out of the old format, which it writes.
        plain = "pickle_protocol" not in options
        assert_same(torch, ours, torch.load(path, weights_only=plain))


formats = pytest.mark.parametrize("zipped", [True, False])


@pytest.mark.torch
@formats
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_comes_back(torch, tmp_path, kind, zipped):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2 if kind == "bool" else 256, 16 * 6, dtype=np.uint8)
    base = torch.from_numpy(raw).view(getattr(torch, kind))
    base = base[: 6 * (len(base) // 6)].reshape(6, -1)
    value = {"whole": base, "turned": base.T, "part": base[1:, :1], "one": base[2, 0]}
    value |= {"none": base[:0], "again": base, "spread": base[0, 0].expand(3, 4)}
    check(torch, tmp_path, value, _use_new_zipfile_serialization=zipped)


def plain_values():
    numbers = st.integers(-(2**70), 2**70) | st.floats(width=64) | st.booleans()
    return numbers | st.none() | st.text(max_size=5)


@st.composite
def views(draw, torch, bases):
    """A view of one of `bases`, which other views may share."""
    base = bases[draw(st.integers(0, len(bases) - 1))]
    size = draw(st.lists(st.integers(0, 4), max_size=4))
    stride = draw(st.lists(st.integers(0, 5), min_size=len(size), max_size=len(size)))
    span = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size or span < len(base):
        last = len(base) - 1 - (0 if 0 in size else span)
        return base.as_strided(size, stride, draw(st.integers(0, max(0, last))))
    return base


@st.composite
def trees(draw, torch):
    """Nested containers of tensors that partly share their storages."""
    bases = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(KINDS))
        item = getattr(torch, kind).itemsize
        raw = draw(st.binary(max_size=24 * item))
        array = np.frombuffer(raw[: len(raw) // item * item], np.uint8).copy()
        array = array % 2 if kind == "bool" else array
        base = torch.from_numpy(array) if len(array) else torch.empty(0).byte()
        bases.append(base.view(getattr(torch, kind)))
    leaves = plain_values() | views(torch, bases)
    keys = st.text(max_size=4) | st.integers(-(2**40), 2**40)
    return draw(
        st.recursive(
            leaves,
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.lists(inner, max_size=4).map(tuple)
                | st.dictionaries(keys, inner, max_size=4)
                | st.dictionaries(keys, inner, max_size=4).map(collections.OrderedDict)
            ),
            max_leaves=12,
        )
    )


@pytest.mark.torch
@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_random_trees_come_back(torch, tmp_path, data):
    value = data.draw(trees(torch))
    for zipped in (True, False):
        check(torch, tmp_path, value, _use_new_zipfile_serialization=zipped)
    check(torch, tmp_path, value, pickle_protocol=data.draw(st.integers(3, 5)))


@pytest.mark.torch
@formats
def test_shared_storages_stay_shared_and_writable(torch, tmp_path, zipped):
    base = torch.arange(6.0)
    path = tmp_path / "file.pth"
    value = {"all": base, "row": base.reshape(2, 3)[1], "other": base.clone()}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    before = path.read_bytes()
    ours = read_torch(path)
    ours["all"][4] = 40
    np.testing.assert_array_equal(ours["row"], [3, 40, 5])
    np.testing.assert_array_equal(ours["other"], range(6))
    assert path.read_bytes() == before


def every_layer(torch):
    nn = torch.nn
    layers = [getattr(nn, f"Conv{n}d")(2, 4, 3) for n in (1, 2, 3)]
    layers += [getattr(nn, f"ConvTranspose{n}d")(2, 4, 3) for n in (1, 2, 3)]
    layers += [getattr(nn, f"BatchNorm{n}d")(3) for n in (1, 2, 3)]
    layers += [nn.InstanceNorm2d(3, affine=True, track_running_stats=True)]
    layers += [nn.GroupNorm(2, 4), nn.LayerNorm((3, 4)), nn.RMSNorm(3)]
    layers += [nn.Linear(3, 4), nn.Bilinear(2, 3, 4), nn.PReLU(3), nn.Embedding(5, 2)]
    layers += [nn.EmbeddingBag(5, 2), nn.LSTM(2, 3, 2), nn.GRU(2, 3), nn.RNN(2, 3)]
    layers += [nn.MultiheadAttention(4, 2), nn.TransformerEncoderLayer(4, 2, 8)]
    layers += [nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))]
    layers += [nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))]
    return nn.ModuleList(layers)


@pytest.mark.torch
@formats
def test_every_layer_and_a_training_state_come_back(torch, tmp_path, zipped):
    net = every_layer(torch)
    adam = torch.optim.AdamW(net.parameters(), amsgrad=True)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    adam.step()
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 10)
    state = {"model": net.state_dict(), "optimizer": adam.state_dict()}
    state |= {"scheduler": cosine.state_dict(), "rng": torch.get_rng_state()}
    state |= {"parameter": torch.nn.Parameter(torch.ones(2), requires_grad=False)}
    state |= {"size": torch.Size([2, 3]), "set": {1, "a"}, "z": 1 + 2j, "b": b"\0\xff"}
    check(torch, tmp_path, state, _use_new_zipfile_serialization=zipped)


@pytest.mark.torch
@formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_scripts_keep_beside_a_model(torch, tmp_path, zipped, protocol):
    path = tmp_path / "file.pth"
    value = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a")),
        "best": np.float64(0.5),
        "history": np.arange(6, dtype=np.int16).reshape(2, 3).T,
        "kind": torch.bfloat16,
        "device": torch.device("cuda", 1),
        "grouped": collections.defaultdict(list, a=[1]),
        "raw": bytearray(b"\0\xff"),
        "weights": torch.arange(3),
    }
    torch.save(
        value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
    )
    ours = read_torch(path)
    assert repr(ours["args"]) == "<skipped: argparse.Namespace>"
    assert ours["best"] == 0.5 and type(ours["best"]) is np.float64
    np.testing.assert_array_equal(ours["history"], value["history"], strict=True)
    assert ours["kind"] == ml_dtypes.bfloat16 and ours["device"] == "cuda:1"
    assert ours["grouped"] == {"a": [1]} and ours["raw"] == b"\0\xff"
    np.testing.assert_array_equal(ours["weights"], range(3))


@pytest.mark.torch
@formats
def test_tensors_with_attributes_and_subclasses(torch, tmp_path, zipped):
    x = torch.arange(3.0)
    x.note = "kept by torch"
    y = torch.nn.Parameter(torch.ones(2))
    y.note = 1
    path = tmp_path / "file.pth"
    torch.save([x, y], path, _use_new_zipfile_serialization=zipped)
    ours = read_torch(path)
    np.testing.assert_array_equal(ours[0], range(3))
    np.testing.assert_array_equal(ours[1], [1, 1])


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: t.eye(2).to_sparse(), "sparse tensor.*to_dense"),
        (lambda t: t.eye(2).to_sparse_csr(), "sparse tensor.*to_dense"),
        (lambda t: t.ones(2, device="meta"), "meta device.*load weights"),
        (
            lambda t: t.quantize_per_tensor(t.ones(2), 0.1, 0, t.qint8),
            "quantised.*dequantize",
        ),
        (
            lambda t: t.nested.nested_tensor([t.ones(1), t.ones(2)]),
            "nested tensor.*to_padded",
        ),
        (lambda t: t.ones(2, dtype=t.complex64).conj(), "conjugation.*resolve_conj"),
        (lambda t: t.nn.Linear(1, 1), "torch.nn.modules.linear.Linear.*state_dict"),
        (lambda t: {(1, 2): t.ones(1)}, "a tuple as a key"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_numpy_has_not_is_refused_with_a_cure(torch, tmp_path, make, words):
    path = tmp_path / "file.pth"
    torch.save({"x": make(torch)}, path)
    with pytest.raises(TorchFileError, match=words) as caught:
        read_torch(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS[:12])
def test_big_endian_archives_are_read_as_torch_reads_them(torch, tmp_path, kind):
    size = np.dtype(getattr(torch, kind).itemsize * "V1,").itemsize
    raw = bytes(range(2 * size)) if kind != "bool" else b"\1\0"
    class_name = copy.copy(torch.empty(0, dtype=getattr(torch, kind)).storage())
    of = storage(count=2, kind=f"torch.{class_name.pickle_storage_type()}")
    value = tensor(size=(2,), stride=(1,), of=of)
    path = tmp_path / "file.pth"
    path.write_bytes(archive(value, {"0": raw}, members=[("byteorder", b"big")]))
    theirs = torch.load(path, weights_only=True)
    assert_same(torch, read_torch(path), theirs)


def test_top_folder_may_have_any_name_and_data_need_not_be_aligned(tmp_path):
    for top in ("x", "a b", "Gewichte-ü", "x" * 100):
        (tmp_path / "file.pth").write_bytes(archive(dict_of(a=tensor()), top=top))
        ours = read_torch(tmp_path / "file.pth")["a"]
        np.testing.assert_array_equal(ours, np.arange(6).reshape(2, 3))
        assert ours.flags.aligned


def test_streams_have_views_of_storages_and_strings_of_python_2(tmp_path):
    view = tuple_of(text("v"), number(2), number(3))
    value = tensor(size=(3,), stride=(1,), of=storage(view=view))
    old = b"}U\x03old" + value + b"s"
    (tmp_path / "file.pth").write_bytes(stream(old))
    ours = read_torch(tmp_path / "file.pth")
    np.testing.assert_array_equal(ours["old"], [2, 3, 4])


def test_old_parameters_and_dictionaries_of_python_2(tmp_path):
    """As torch 0.1.12 to 0.3 wrote them: a class called, and a state that follows."""
    parameter = name("torch.nn.parameter.Parameter") + tuple_of(tensor()) + b"R"
    parameter += tuple_of(b"\x88", b"\x89", b"N") + b"b"
    pairs = b"](](" + text("w") + parameter + b"ee"
    value = name("collections.OrderedDict") + tuple_of(pairs) + b"R"
    (tmp_path / "file.pth").write_bytes(stream(value))
    ours = read_torch(tmp_path / "file.pth")
    np.testing.assert_array_equal(ours["w"], np.arange(6).reshape(2, 3))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_tar_archives_are_read_as_torch_reads_them(torch, tmp_path):
    longs = struct.pack("<4q", 7, -8, 9, 10)
    storages = tar_storages(
        (11, "torch.FloatStorage", 6, FLOATS),
        (12, "torch.LongStorage", 4, longs),
        (13, "torch.HalfStorage", 0, b""),
        views=[(14, 11, 1, 4)],
    )
    tensors = tar_tensors(
        (21, 11, (2, 3), (3, 1), 0),
        (22, 12, (2,), (2,), 1),
        (23, 13, (0,), (1,), 0),
        (24, 14, (2, 2), (1, 2), 0),
    )
    value = dict_of(**{f"t{key}": tar_tensor(key) for key in (21, 22, 23, 24)})
    path = tmp_path / "file.pth"
    path.write_bytes(tar(value, storages, tensors))
    theirs = torch.load(path, weights_only=False)
    ours = read_torch(path)
    assert_same(torch, ours, theirs)
    ours["t21"][0, 1] = 50
    assert ours["t24"][0, 0] == 50


def written_models(names):
    return pytest.mark.parametrize("model", names)


def check_model(torch, folder, model):
    net = import_torchvision().models.get_model(model)
    for zipped in (True, False):
        check(torch, folder, net.state_dict(), _use_new_zipfile_serialization=zipped)
    check(torch, folder, net.half().state_dict())
    write_torch(folder / "ours.pth", load_state_dict(folder / "file.pth"))
    net.float().load_state_dict(torch.load(folder / "ours.pth"), strict=True)
    for path in folder.iterdir():  # gigabytes, over all models
        path.unlink()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@written_models(["mobilenet_v3_small", "resnet18"])
def test_small_models_come_back(torch, tmp_path, model):
    check_model(torch, tmp_path, model)


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@written_models(sorted({row.model for row in TABLE}))
def test_models_of_the_table_come_back(torch, tmp_path, model):
    check_model(torch, tmp_path, model)


def test_reading_and_writing_import_no_torch():
    module = importlib.import_module("converters.torch_file")
    code = "import sys, converters.torch_file; sys.exit('torch' in sys.modules)"
    root = pathlib.Path(module.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
