"""Files that were made to do harm, or damaged: one line each, and nothing is run."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from converters.torch_file import TorchFileError, names, pickles, read_torch
from converters.torch_file import archive as archive_format
from converters.torch_file.machine import BUDGET
from converters.weights import load_state_dict
from tests.torch_files import (
    FLOATS,
    archive,
    call,
    dict_of,
    name,
    number,
    program,
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

ROOT = Path(__file__).parents[1]
LAST = pickle.STOP


@pytest.fixture
def refusal(tmp_path):
    """Writes a file, and gives the one line of its refusal."""

    def refuse(raw: bytes) -> str:
        path = tmp_path / "evil.pth"
        path.write_bytes(raw)
        for read in (read_torch, load_state_dict):
            with pytest.raises(TorchFileError) as caught:
                read(path)
            assert caught.value.__suppress_context__ or not caught.value.__context__
        line = str(caught.value)
        assert line.startswith(str(path)) and "\n" not in line and len(line) < 600
        return line[len(str(path)) + 1 :]

    return refuse


def both(value: bytes) -> tuple[bytes, bytes]:
    return archive(value), stream(value)


def shell(canary) -> bytes:
    return text(f"touch {canary}")


def calls(canary) -> dict[str, bytes]:
    """Values of a pickle that would make the file `canary`, were they run."""
    touch = shell(canary)
    short = pickle.SHORT_BINUNICODE
    stack_global = short + b"\5posix" + short + b"\6system" + pickle.STACK_GLOBAL
    python = text(f"open({str(canary)!r}, 'w')")
    inner = call("os.system", touch)
    build = (
        call("collections.OrderedDict") + dict_of(__class__=name("os.system")) + b"b"
    )
    return {
        "os.system": inner,
        "posix.system": stack_global + tuple_of(touch) + pickle.REDUCE,
        "builtins.eval": call("builtins.eval", python),
        "builtins.exec": call("__builtin__.exec", python),
        "builtins.getattr": call("builtins.getattr", name("torch.Size"), text("a")),
        "subprocess.Popen": name("subprocess.Popen") + tuple_of(touch) + pickle.NEWOBJ,
        "operator.attrgetter": call("operator.attrgetter", text("x")),
        "torch.load": call("torch.load", text("x")),
        "torch.jit.load": call("torch.jit.load", text("x")),
        "numpy.load": call("numpy.load", text("x")),
        "os.system ": call("torch._tensor._rebuild_from_type_v2", inner),
        " os.system": build,
        "runpy.run_path": call("runpy.run_path", text("x")),
        "functools.partial": call("functools.partial", name("os.system"), touch),
        "codecs.decode": call("_codecs.decode", text("x")),
        "__main__.Model": call("__main__.Model"),
    }


@pytest.mark.parametrize("what", calls("x"))
def test_names_outside_the_list_are_refused_and_not_run(refusal, tmp_path, what):
    canary = tmp_path / "ran"
    value = calls(canary)[what]
    for raw in (*both(value), *both(dict_of(a=tensor(), b=value)), program(value)):
        line = refusal(raw)
        assert f"({what.strip()})" in line.replace("(_codecs", "(codecs")
        assert "pickled Python objects" in line and "torch.save(model.state" in line
    assert not canary.exists()


@pytest.mark.parametrize(
    "value",
    [
        b"(" + text("x") + b"ios\nsystem\n",  # INST
        b"(" + name("torch.Size") + b"o",  # OBJ
        b"\x82\1",  # EXT1
        b"\x83\1\0",
        b"\x84\1\0\0\0",
        b"Pabc\n",  # PERSID
        name("torch.Size") + b")}\x92",  # NEWOBJ_EX
        b"\x97",  # NEXT_BUFFER
        b"I1\n",
    ],
)
def test_opcodes_that_call_or_look_up_are_refused(refusal, value):
    for raw in both(value):
        assert "is none that torch writes" in refusal(raw)


@pytest.mark.parametrize(
    "value",
    [
        text("a") + b")R",  # calls a text
        tensor() + b")R",
        b"))R",
        name("collections.OrderedDict") + b"NR",
        name("torch.FloatStorage") + b")R",
        name("torch.float32") + b")R",
        b"K\1" + dict_of(a=b"N") + b"b",  # a state for a number
        b"]" + dict_of(a=b"N") + b"b",
        name("torch.Size") + dict_of(apply=b"N") + b"b",
        text("a") + b"K\1a",  # appends to a text
        b"]K\1K\1s",  # sets an item of a list
        b"}(K\1u",  # an odd number of keys and values
        b"\x85",
        b"a",
        b"h\7",
        b"j\xff\xff\xff\xff",
        b"t",
        b"X\xff\xff\xff\xffabc",
        b"T\xff\xff\xff\xffabc",
        b"\x8d" + b"\xff" * 8,
        b"X\1\0\0\0\xff",
        b"K",
        b"",
        call("torch.Size", b"](J\xff\xff\xff\xffe"),
        call("builtins.bytearray", number(2**40)),
        call("builtins.list", number(2**40)),
        call("_codecs.encode", text("x"), text("zip")),
        call("numpy.core.multiarray.scalar", name("torch.float32"), text("x")),
        call("torch._utils._rebuild_parameter", text("x")),
        storage() + b"Q",
        b"K\1Q",
        tuple_of(text("module"), b"N", b"N", b"N", b"N") + b"Q",
        tuple_of(text("storage"), text("x"), text("0"), text("cpu"), number(6)) + b"Q",
    ],
)
def test_pickles_that_make_no_sense_are_one_line(refusal, value):
    for raw in both(value):
        line = refusal(raw)
        assert "is damaged or not written by torch.save" in line and "get it" in line


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tensor(offset=1), "reaches past its storage"),
        (tensor(offset=-1), "-1 is no size"),
        (tensor(size=(-1, 3)), "-1 is no size"),
        (tensor(stride=(3, -1)), "-1 is no size"),
        (tensor(size=(3, 3)), "reaches past"),
        (tensor(size=(2, 2**62)), "many times the size of the file"),
        (tensor(size=(2**40,), stride=(0,)), "many times the size of the file"),
        (tensor(size=(2**20, 2**20), stride=(0, 0)), "many times the size"),
        (tensor(size=(2,), stride=(2**62,)), "reaches past"),
        (tensor(size=(2**63, 0)), "is no size"),
        (tensor(size=(2,)), "1 sizes and 2 strides"),
        (tensor(size=(1,) * 65, stride=(1,) * 65), "65 sizes"),
        (tensor(of=text("x")), "no storage"),
        (tensor(of=storage(count=7)), "storage"),
        (tensor(of=storage(count=-6)), "storage"),
        (tensor(of=storage(count=2**60)), "storage"),
        (tensor(of=storage("../../../etc/passwd")), "damaged"),
        (tensor(of=storage("/etc/passwd")), "damaged"),
        (tensor(of=storage(kind="torch.QInt8Storage")), "quantised"),
        (tensor(of=storage(count=5, kind="torch.UntypedStorage")), "reaches past"),
        (b"\x8b" + struct.pack("<i", 376) + bytes(376), "an integer of 376 bytes"),
        (
            b"}" + number(2**70) + b"Ns",
            "long integer 1180591620717411303424 as a key",
        ),
        (b"})Ns", "a tuple as a key"),
    ],
)
def test_tensors_outside_their_storage_are_refused(refusal, value, words):
    for raw in both(value):
        assert words in refusal(raw)


def test_many_small_views_may_not_add_up(refusal):
    one = tensor(size=(2**20,), stride=(0,))
    many = b"](" + one + b"q\0" + tensor(size=(2**20,), stride=(0,)) * 40 + b"e"
    for raw in both(many):
        assert "many times the size of the file" in refusal(raw)


def test_a_list_may_not_be_copied_again_and_again(refusal):
    value = (
        b"]("
        + b"N" * 100_000
        + b"eq\0"
        + b"0]("
        + (name("builtins.list") + b"h\0\x85R") * 1000
        + b"e"
    )
    for raw in both(value):
        assert "many times" in refusal(raw)


def test_keys_that_take_exponential_time_are_refused(refusal):
    doubled = b")" + b"q\0h\0\x86" * 200
    for raw in both(b"}" + doubled + b"Ns"):
        assert "a tuple as a key" in refusal(raw)
    for raw in both(dict_of(a=call("torch.device", doubled))):
        assert "damaged" in refusal(raw)


@pytest.mark.parametrize("depth", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_nesting_and_self_reference_are_harmless(tmp_path, depth):
    path = tmp_path / "deep.pth"
    wrapped = b"}q\0" + text("model") + b"h\0s"
    tuples, lists = b")" + b"\x85" * 2 * depth, b"]" * depth + b"a" * (depth - 1)
    for value in (tuples, lists, wrapped):
        for raw in (archive(value), stream(value, {})):
            path.write_bytes(raw)
            read_torch(path)
            with pytest.raises(ValueError) as caught:
                load_state_dict(path)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    typed = name("torch._tensor._rebuild_from_type_v2")
    deep = typed + (b"(" + typed + b"N") * 3000 + b")" + b"Nt" * 3000 + b"R"
    path.write_bytes(archive(deep))
    with pytest.raises(TorchFileError):
        read_torch(path)


@pytest.mark.parametrize("most", [20_000, pytest.param(BUDGET, marks=pytest.mark.slow)])
def test_a_pickle_of_too_many_opcodes_ends(tmp_path, monkeypatch, most):
    for module in (names, pickles):
        monkeypatch.setattr(module, "BUDGET", most)
    path = tmp_path / "long.pth"
    path.write_bytes(archive(b"](" + b"\x8f" * (most + most // 10) + b"e"))
    with pytest.raises(TorchFileError, match=f"more than {most:,} values"):
        read_torch(path)


def test_zip_bombs_are_refused_unopened(refusal):
    raw = archive(dict_of(a=tensor()), {"0": bytes(10**8)}, method=zipfile.ZIP_DEFLATED)
    assert len(raw) < 10**6
    tracemalloc.start()
    assert "is compressed or encrypted" in refusal(raw)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**6
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_contradict_themselves_are_refused(refusal):
    value = dict_of(a=tensor())
    twice = archive(value, members=[("data/0", FLOATS)])
    assert "'archive/data/0' twice" in refusal(twice)
    twice = archive(value, members=[("data.pkl", program(call("os.system")))])
    assert "'archive/data.pkl' twice" in refusal(twice)
    whole = archive(value)
    assert "damaged" in refusal(whole + b"x")
    assert "damaged" in refusal(whole[:-1])
    assert "damaged" in refusal(whole.replace(b"archive/data/0", b"archive/data/1", 1))
    assert "byte order" in refusal(archive(value, members=[("byteorder", b"middle")]))
    two = io.BytesIO(whole)
    with zipfile.ZipFile(two, "a") as file:
        file.writestr("other/data.pkl", program(value))
    assert "without one data.pkl" in refusal(two.getvalue())
    assert "without one data.pkl" in refusal(archive(value, top="a/b"))
    code = archive(value, members=[("code/x.py", b"")])
    assert "TorchScript" in refusal(code) and "re-save" in refusal(code)
    assert "has no 'archive/data/0'" in refusal(archive(value, {}))
    at = whole.rindex(b"PK\1\2")
    huge = bytearray(whole)
    huge[at + 20 : at + 28] = b"\xff" * 8  # sizes in a zip64 field that is not there
    assert "damaged" in refusal(bytes(huge))


def test_members_that_lie_over_each_other_may_not_add_up(refusal):
    whole = archive(dict_of(a=tensor()))
    parts = [tensor(of=storage(f"{i}")) for i in range(200)]
    value = b"](" + b"".join(parts) + b"e"
    raw = archive(value, {f"{i}": FLOATS for i in range(200)})
    members = archive_format.members(raw)
    first = members["archive/data/0"]
    assert first.size == 24 and len(whole) < len(raw)
    big = archive(value, {"0": bytes(10**6), **{f"{i}": b"" for i in range(1, 200)}})
    begin = big.index(b"PK\3\4", 100)
    forged = bytearray(big)
    at = -1
    for _ in range(202):  # every entry of the directory shows the first storage
        at = forged.index(b"PK\1\2", at + 1)
        if b"data/" in forged[at + 46 : at + 64]:
            forged[at + 20 : at + 28] = struct.pack("<2L", 10**6, 10**6)
            forged[at + 42 : at + 46] = struct.pack("<L", begin)
    assert "contradicts itself" in refusal(bytes(forged))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (stream(tensor(), {"0": (7, FLOATS + b"abcd")}), "has 7 elements"),
        (stream(tensor(), {"0": (2**62, FLOATS)}), "elements and should have 6"),
        (stream(tensor(), {"0": (-6, FLOATS)}), "elements and should have 6"),
        (stream(tensor(), {"0": (6, FLOATS[:-1])}), "cut inside a storage"),
        (stream(tensor(), {}), "not those that its tensors name"),
        (stream(tensor(), keys=["0", "0"]), "not those that its tensors name"),
        (stream(tensor(), keys=["1"]), "not those"),
        (stream(tensor(), keys={"0": 1}), "list of storages is none"),
        (stream(tensor(of=storage(count=2**30))), "larger than the file"),
        (
            stream(tensor(of=storage(view=tuple_of(text("v"), number(4), number(3))))),
            "reaches past it",
        ),
        (
            stream(tensor(of=storage(view=tuple_of(text("v"), number(-1), number(3))))),
            "reaches past it",
        ),
        (stream(tensor())[:-30], "cut"),
        (pickle.dumps(1, 2) + stream(tensor()), "none of the marks"),
    ],
)
def test_streams_that_lie_are_refused(refusal, raw, words):
    line = refusal(raw)
    assert words in line and "damaged" in line


STORED = (11, "torch.FloatStorage", 6, FLOATS)
SIZED = (21, 11, (2, 3), (3, 1), 0)


@pytest.mark.parametrize(
    ("storages", "tensors", "value", "words"),
    [
        (tar_storages(STORED), tar_tensors(SIZED), tar_tensor(99), "broken"),
        (tar_storages(STORED), tar_tensors(SIZED), b"NQ", "class of a model"),
        (tar_storages(STORED), tar_tensors(SIZED), call("os.system"), "os.system"),
        (
            tar_storages((11, "torch.FloatStorage", 2**40, FLOATS)),
            tar_tensors(SIZED),
            tar_tensor(21),
            "cut inside a storage",
        ),
        (
            tar_storages(STORED, views=[(12, 11, 4, 3)]),
            tar_tensors(SIZED),
            tar_tensor(21),
            "past it",
        ),
        (
            tar_storages(STORED),
            tar_tensors((21, 11, (2, 4), (4, 1), 0)),
            tar_tensor(21),
            "reaches past",
        ),
        (
            tar_storages(STORED),
            tar_tensors((21, 11, (2**40,), (0,), 0)),
            tar_tensor(21),
            "many times",
        ),
        (tar_storages(STORED, STORED), tar_tensors(SIZED), tar_tensor(21), "is none"),
        (tar_storages(STORED), tar_tensors(SIZED, SIZED), tar_tensor(21), "its own"),
        (pickle.dumps(2**60, 2), tar_tensors(SIZED), tar_tensor(21), "damaged"),
        (pickle.dumps("x", 2), tar_tensors(SIZED), tar_tensor(21), "no number of"),
    ],
)
def test_tar_archives_that_lie_are_refused(refusal, storages, tensors, value, words):
    assert words in refusal(tar(value, storages, tensors))


def test_no_tar_member_is_unpacked(refusal, tmp_path):
    raw = tar(tar_tensor(21), tar_storages(STORED), tar_tensors(SIZED))
    assert "no storages" in refusal(raw.replace(b"storages\0", b"../../st\0"))
    assert {path.name for path in tmp_path.iterdir()} == {"evil.pth"}
