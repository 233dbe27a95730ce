"""The zip archives that torch writes since 1.6: where each member lies in the file.

Members are read where they are stored as they are. So nothing is unpacked, no name
reaches the file system, and a storage is a view of the file.
"""

import struct
from mmap import mmap
from typing import NamedTuple

from converters.torch_file.errors import CURE, Damage, Refusal, quoted

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 2**16 - 1
_MOST_MEMBERS = 2**20


class Member(NamedTuple):
    """Where the bytes of a member lie, and whether they are its content as it is."""

    start: int
    size: int
    is_plain: bool = True


def members(data: mmap | bytes) -> dict[str, Member]:
    """The members of a zip archive by name.

    Raises:
      Damage: the archive contradicts itself.
      Refusal: there are too many.
    """
    position, end, count = _directory(data)
    found: dict[str, Member] = {}
    while position < end:
        if len(found) >= _MOST_MEMBERS:
            raise Refusal(
                f"is a zip archive of more than {_MOST_MEMBERS:,} members and is not "
                f"loaded: {CURE}"
            )
        name, member, position = _entry(data, position, end)
        if name in found:
            raise Damage(f"its zip archive has {quoted(name)} twice")
        found[name] = member
    if len(found) != count:
        raise Damage(f"its zip archive has {len(found)} members, not {count}")
    return found


def _directory(data: mmap | bytes) -> tuple[int, int, int]:
    """Where the central directory begins and ends, and its number of entries."""
    first = max(0, len(data) - _END.size - _LONGEST_COMMENT)
    at = data.rfind(b"PK\5\6", first)
    if at < 0:
        raise Damage("its zip archive has no end")
    _, disk, _, _, count, size, start, comment = _unpack(_END, data, at)
    if disk or at + _END.size + comment != len(data):
        raise Damage("its zip archive does not end where the file does")
    end = at
    locator = at - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        end = _unpack(_LOCATOR, data, locator)[2]
        if end > locator:
            raise Damage("its zip archive is cut")
        mark, *_, count, size, start = _unpack(_END64, data, end)
        if mark != b"PK\6\6":
            raise Damage("its zip archive has no directory")
    if start + size > end:
        raise Damage("its zip archive has a directory that is cut")
    return start, start + size, count


def _entry(data: mmap | bytes, at: int, end: int) -> tuple[str, Member, int]:
    """One line of the directory: name, member, and where the next line begins."""
    fields = _unpack(_ENTRY, data, at)
    mark, _, _, flags, method = fields[:5]
    packed, size, name_length, extra_length, comment_length = fields[8:13]
    header = fields[-1]
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    following = extra_at + extra_length + comment_length
    if mark != b"PK\1\2" or following > end:
        raise Damage("its zip archive has a directory that is cut")
    raw = data[name_at:extra_at]
    name = raw.decode("utf-8" if flags & 0x800 else "latin-1", "replace")
    extra = data[extra_at : extra_at + extra_length]
    size, packed, header = _wide(extra, [size, packed, header])
    is_plain = not method and not flags & 1
    local_mark, *_, local_name, local_extra = _unpack(_LOCAL, data, header)
    start = header + _LOCAL.size + local_name + local_extra
    stored = data[header + _LOCAL.size : header + _LOCAL.size + local_name]
    if local_mark != b"PK\3\4" or stored != raw or (is_plain and size != packed):
        raise Damage(f"its zip archive contradicts itself on {quoted(name)}")
    if start + packed > len(data):
        raise Damage(f"its zip archive is cut inside {quoted(name)}")
    return name, Member(start, packed, is_plain), following


def find(found: dict[str, Member], name: str) -> Member:
    """The member `name`, which can be read where it lies.

    Raises:
      Damage: there is none.
      Refusal: it is compressed or encrypted.
    """
    member = found.get(name)
    if member is None:
        raise Damage(f"its zip archive has no {quoted(name)}")
    if not member.is_plain:
        raise Refusal(
            f"is a zip archive whose member {quoted(name)} is compressed or encrypted, "
            "which torch does not write: unpack it and pack it again with `zip -0`, or "
            "re-save it with torch.save(model.state_dict(), FILE)"
        )
    return member


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and position; what does not fit 32 bits is in the zip64 field."""
    at, wide = 0, b""
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for index, value in enumerate(values):
        if value == 0xFFFFFFFF:
            if len(wide) < 8:
                raise Damage("its zip archive has no sizes")
            values[index], wide = struct.unpack("<Q", wide[:8])[0], wide[8:]
    return values


def _unpack(kind: struct.Struct, data: mmap | bytes, at: int) -> tuple:
    raw = data[at : at + kind.size]
    if len(raw) < kind.size:
        raise Damage("its zip archive is cut")
    return kind.unpack(raw)
