"""What a crash leaves behind: a minidump with the bug check and the memory that explains it.

`encode` writes a `CrashDump`, `decode` reads it back; so does any reader of minidumps.

A real kernel writes another container, an image of physical pages under a header of its own. It can only be
read through page tables and kernel structures, which a simulator does not have and would have to fake. The
minidump is Windows' documented format for a few facts and some memory, and readers by others exist. The bug
check stands where a minidump has its exception: its code as the exception's, its parameters as the arguments.

Source: the public description of the minidump streams.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Final

from attrs import frozen

from ntlab.errors import UnknownNameError
from ntlab.formats.wire import U8, U16, U32, U64, FormatError, pack, peek, size, unpack

_RELEASES: Final = {"ws2003": (5, 2, 3790), "ws2008": (6, 0, 6001), "ws2008r2": (6, 1, 7600)}
_ARCHITECTURES: Final = {"x86": 0, "ia64": 6, "x64": 9}

_MODULE_LIST, _EXCEPTION, _SYSTEM_INFO, _MEMORY64_LIST, _COMMENT_W = 4, 6, 7, 9, 11


class DumpError(FormatError):
    """A malformed minidump, or a `CrashDump` that cannot be encoded."""

    subject = "crash dump"


@frozen
class _Header:
    signature: ClassVar[Annotated[bytes, 4]] = b"MDMP"
    version: ClassVar[U16] = 0xA793
    implementation: ClassVar[U16] = 0
    streams: U32
    directory: U32
    checksum: ClassVar[U32] = 0
    time: U32
    flags: U64 = 0x2  # memory is in a Memory64List


@frozen
class _Stream:
    """An entry of the directory."""

    kind: U32
    size: U32
    offset: U32


@frozen(kw_only=True)
class SystemInfo:
    """The crashed system, 56 bytes. See `system_info`."""

    architecture: U16
    level: ClassVar[U16] = 0
    revision: ClassVar[U16] = 0
    processors: U8
    product: ClassVar[U8] = 3  # server
    major: U32
    minor: U32
    build: U32
    platform: ClassVar[U32] = 2  # NT
    service_pack: ClassVar[U32]  # offset of a string
    suite: ClassVar[U32] = 0
    features: ClassVar[Annotated[bytes, 24]] = bytes(24)


def system_info(release: str, architecture: str, processors: int) -> SystemInfo:
    """For a release ("ws2003", "ws2008", "ws2008r2") and an architecture ("x86", "x64", "ia64").

    The format has one byte for the number of processors: more than 255 are written as 255.
    """
    if release not in _RELEASES:
        raise UnknownNameError("release", release, _RELEASES)
    if architecture not in _ARCHITECTURES:
        raise UnknownNameError("architecture", architecture, _ARCHITECTURES)
    major, minor, build = _RELEASES[release]
    return SystemInfo(
        architecture=_ARCHITECTURES[architecture],
        processors=min(processors, 255),
        major=major,
        minor=minor,
        build=build,
    )


@frozen
class BugCheck:
    """A stop code with its four parameters; as the exception stream it is 168 bytes."""

    thread: ClassVar[U64] = 0
    code: U32
    flags: ClassVar[U32] = 1  # not continuable
    inner: ClassVar[U64] = 0
    address: ClassVar[U64] = 0
    count: ClassVar[U64] = 4
    p1: U64 = 0
    p2: U64 = 0
    p3: U64 = 0
    p4: U64 = 0
    unused: ClassVar[Annotated[bytes, 11 * 8]] = bytes(11 * 8)
    context: ClassVar[U64] = 0


@frozen
class Memory:
    """Bytes of the crashed system at a virtual address."""

    address: U64
    length: ClassVar[U64]
    data: bytes = b""


@frozen
class _MemoryList:
    count: U64
    offset: U64  # of the bytes of all ranges, back to back


@frozen(kw_only=True)
class CrashDump:
    """A crash: `time` in seconds since 1970, `memory` in order of address and without overlap."""

    system: SystemInfo
    bug_check: BugCheck
    time: int = 0
    comment: str = ""
    memory: tuple[Memory, ...] = ()


def encode(dump: CrashDump) -> bytes:
    """The bytes of the minidump. Raises DumpError."""
    for left, right in pairwise(dump.memory):
        if left.address + len(left.data) > right.address:
            raise DumpError(
                f"memory at {right.address:#x} follows {len(left.data)} bytes at {left.address:#x}",
                expected="ranges in order of address, without overlap",
            )
    service_pack = bytes(6)  # an empty string: its length in bytes, then UTF-16 with a final NUL
    at = size(_Header) + 5 * size(_Stream)
    bodies = {
        _SYSTEM_INFO: pack(dump.system, DumpError, service_pack=at),
        _EXCEPTION: pack(dump.bug_check, DumpError),
        _MODULE_LIST: bytes(4),  # none, but readers want to be told
        _COMMENT_W: (dump.comment + "\0").encode("utf-16-le", "surrogatepass"),
        _MEMORY64_LIST: b"",
    }
    at += len(service_pack)
    ranges = b"".join(pack(memory, DumpError, length=len(memory.data)) for memory in dump.memory)
    data = at + sum(map(len, bodies.values())) + size(_MemoryList) + len(ranges)
    bodies[_MEMORY64_LIST] = pack(_MemoryList(len(dump.memory), data), DumpError) + ranges
    directory = b""
    for kind, body in bodies.items():
        directory += pack(_Stream(kind, len(body), at), DumpError)
        at += len(body)
    header = pack(_Header(len(bodies), size(_Header), dump.time), DumpError)
    return b"".join(
        [header, directory, service_pack, *bodies.values(), *(memory.data for memory in dump.memory)]
    )


def decode(data: bytes) -> CrashDump:
    """The crash that a minidump tells of. Streams of other kinds are passed over. Raises DumpError."""
    header = unpack(_Header, data, 0, DumpError)
    streams: dict[int, _Stream] = {}
    for index in range(header.streams):
        at = header.directory + index * size(_Stream)
        stream = unpack(_Stream, data, at, DumpError)
        if stream.offset + stream.size > len(data):
            raise DumpError(
                f"stream {stream.kind} ends at byte {stream.offset + stream.size}",
                at=at,
                expected=f"at most {len(data)}",
            )
        if streams.setdefault(stream.kind, stream) is not stream:
            raise DumpError(f"there is a second stream {stream.kind}", at=at)
    for kind in (_SYSTEM_INFO, _EXCEPTION, _COMMENT_W, _MEMORY64_LIST):
        if kind not in streams:
            raise DumpError(f"there is no stream {kind}", at=header.directory)
    comment = streams[_COMMENT_W]
    try:
        text = data[comment.offset : comment.offset + comment.size].decode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError:
        raise DumpError("the comment is no text", at=comment.offset, expected="UTF-16") from None
    return CrashDump(
        system=unpack(SystemInfo, data, streams[_SYSTEM_INFO].offset, DumpError),
        bug_check=unpack(BugCheck, data, streams[_EXCEPTION].offset, DumpError),
        time=header.time,
        comment=text.removesuffix("\0"),
        memory=_read_memory(data, streams[_MEMORY64_LIST].offset),
    )


def _read_memory(data: bytes, at: int) -> tuple[Memory, ...]:
    header = unpack(_MemoryList, data, at, DumpError)
    at, offset = at + size(_MemoryList), header.offset
    found = []
    for _ in range(header.count):
        memory = unpack(Memory, data, at, DumpError)
        length, where = peek(Memory, "length", data, at)
        if offset + length > len(data):
            raise DumpError(
                f"{length} bytes at {memory.address:#x} end at byte {offset + length}",
                at=where,
                expected=f"at most {len(data)}",
            )
        found.append(Memory(memory.address, data[offset : offset + length]))
        at, offset = at + size(Memory), offset + length
    return tuple(found)
