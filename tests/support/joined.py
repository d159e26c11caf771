"""An mp4 joined from others as `MP4Box -cat` leaves it: one track, with the sample description of each part and a table
that says which one each chunk has (ISO/IEC 14496-12). ffmpeg writes no such files."""

import struct
from pathlib import Path

import av

SECOND, FRAME = 900, 30  # a second, and how long a frame is shown
MATRIX = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def join(parts: list[Path], target: Path) -> Path:
    """The frames of h264 files of one size, each part a chunk with the description that it has in its own file."""
    own = [_description(part) for part in parts]
    descriptions = list(dict.fromkeys(own))
    chunks = [_packets(part) for part in parts]
    packets = [packet for chunk in chunks for packet in chunk]
    head = _box("ftyp", b"isom", _numbers(512), b"isomavc1")
    places, at = [], len(head) + 8
    for chunk in chunks:
        places.append(at)
        at += sum(packet.size for packet in chunk)
    offsets = [number for packet in packets for number in (1, _later(packet))]
    keys = [number for number, packet in enumerate(packets, 1) if packet.is_keyframe]
    runs = [(n, len(chunk), descriptions.index(own[n - 1]) + 1) for n, chunk in enumerate(chunks, 1)]
    table = _box(
        "stbl",
        _full("stsd", _numbers(len(descriptions)), *descriptions),
        _full("stts", _numbers(1, len(packets), FRAME)),
        _full("ctts", _numbers(len(packets), *offsets)),
        _full("stss", _numbers(len(keys), *keys)),
        _full("stsc", _numbers(len(runs), *(number for run in runs for number in run))),
        _full("stsz", _numbers(0, len(packets), *(packet.size for packet in packets))),
        _full("stco", _numbers(len(places), *places)),
    )
    content = _box("mdat", *(bytes(packet) for packet in packets))
    target.write_bytes(head + content + _movie(table, len(packets) * FRAME, _size(parts[0])))
    return target


def _movie(table: bytes, duration: int, size: tuple[int, int]) -> bytes:
    location = _box("dinf", _full("dref", _numbers(1), _full("url ", flags=1)))
    media = _box(
        "mdia",
        _full("mdhd", _numbers(0, 0, SECOND, duration, 0x55C40000)),
        _full("hdlr", _numbers(0), b"vide", bytes(13)),
        _box("minf", _full("vmhd", bytes(8), flags=1), location, table),
    )
    shown = struct.pack(">2I", *(side << 16 for side in size))
    track = _full("tkhd", _numbers(0, 0, 1, 0, duration), bytes(16), MATRIX, shown, flags=3)
    movie = _full("mvhd", _numbers(0, 0, SECOND, duration, 1 << 16), b"\1\0", bytes(10), MATRIX, bytes(24), _numbers(2))
    return _box("moov", movie, _box("trak", track, media))


def _description(part: Path) -> bytes:
    """The box `avc1` of a file, its parameter sets included."""
    content = part.read_bytes()
    at = content.index(b"avc1", content.index(b"stsd")) - 4
    return content[at : at + int.from_bytes(content[at : at + 4], "big")]


def _packets(part: Path) -> list[av.Packet]:
    with av.open(str(part)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def _later(packet: av.Packet) -> int:
    """How much later than it is decoded a frame is shown."""
    assert packet.pts is not None
    assert packet.dts is not None
    assert packet.time_base is not None
    return round((packet.pts - packet.dts) * packet.time_base * SECOND)


def _size(part: Path) -> tuple[int, int]:
    with av.open(str(part)) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def _full(kind: str, *content: bytes, flags: int = 0) -> bytes:
    return _box(kind, _numbers(flags), *content)


def _box(kind: str, *content: bytes) -> bytes:
    inside = b"".join(content)
    return _numbers(8 + len(inside)) + kind.encode() + inside
