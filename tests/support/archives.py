"""Archives of the three kinds, and what came out of one."""

import io
import tarfile
import zipfile
import zlib


def tar(path, members) -> None:
    """Members are (name, content) or a TarInfo."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))


def rar(path, members) -> None:
    """(name, content) and perhaps a Unix mode, stored without compression in the format of RAR 2.9."""

    def block(kind: int, flags: int, rest: bytes) -> bytes:
        head = bytes([kind]) + flags.to_bytes(2, "little") + (len(rest) + 7).to_bytes(2, "little") + rest
        return (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + head

    whole = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content, *given in members:
        size, checksum = len(content).to_bytes(4, "little"), zlib.crc32(content).to_bytes(4, "little")
        unix, version, stored, mode = b"\x03", b"\x14", b"\x30", (given or [0o100644])[0].to_bytes(4, "little")
        sizes = size + size + unix + checksum + bytes(4) + version + stored
        text = name.encode()
        whole += block(0x74, 0x8000, sizes + len(text).to_bytes(2, "little") + mode + text) + content
    path.write_bytes(whole + block(0x7B, 0x4000, b""))


def zipped(path, members) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def written(path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
