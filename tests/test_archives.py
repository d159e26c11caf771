"""Archives from the network: nothing lands outside, nothing grows without bounds, damage is seen."""

import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib

import pytest

from r2plus1d import archives

VIDEO = bytes(range(256)) * 40


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
    """(name, content), stored without compression in the format of RAR 2.9."""

    def block(kind: int, flags: int, rest: bytes) -> bytes:
        head = bytes([kind]) + flags.to_bytes(2, "little") + (len(rest) + 7).to_bytes(2, "little") + rest
        return (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") + head

    whole = b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6))
    for name, content in members:
        size, checksum = len(content).to_bytes(4, "little"), zlib.crc32(content).to_bytes(4, "little")
        unix, version, stored, mode = b"\x03", b"\x14", b"\x30", (0o100644).to_bytes(4, "little")
        sizes = size + size + unix + checksum + bytes(4) + version + stored
        text = name.encode()
        whole += block(0x74, 0x8000, sizes + len(text).to_bytes(2, "little") + mode + text) + content
    path.write_bytes(whole + block(0x7B, 0x4000, b""))


def zipped(path, members) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


def unpack(path):
    out = path.parent / "out"
    return archives.unpack(path, lambda name: out / name.rsplit("/", 1)[-1] if name.endswith(".mp4") else None)


def written(path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_content_or_digest_of_a_member_is_lost(tmp_path, make):
    other = VIDEO[::-1] + b"!"
    make(tmp_path / "a", [("b/2.mp4", VIDEO), ("b/notes.txt", b"x"), ("1.mp4", other), ("b/._2.mp4", b"macOS")])
    found, odd = unpack(tmp_path / "a")
    assert odd == []
    assert list(found) == ["b/2.mp4", "b/notes.txt", "1.mp4"]
    assert found["b/2.mp4"] == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
    assert found["b/notes.txt"] == (1, "")
    assert (tmp_path / "out" / "1.mp4").read_bytes() == other
    assert written(tmp_path) == ["a", "out/1.mp4", "out/2.mp4"]
    assert archives.read_texts(tmp_path / "a")["b/notes.txt"] == "x"


def test_server_that_unpacks_what_it_sends_is_taken_for_damage(tmp_path):
    tar(tmp_path / "packed", [("1.mp4", VIDEO)])
    (tmp_path / "a.tar.gz").write_bytes(gzip.decompress((tmp_path / "packed").read_bytes()))
    found, _ = unpack(tmp_path / "a.tar.gz")
    assert found == {"1.mp4": (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())}


def special(name, kind, target="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_member_lands_outside_or_is_a_link_or_device(tmp_path):
    members = [
        ("../up.mp4", VIDEO),
        ("/abs.mp4", VIDEO),
        ("a/../../b.mp4", VIDEO),
        ("new\nline.mp4", VIDEO),
        special("link.mp4", tarfile.SYMTYPE, "/etc/passwd"),
        special("hard.mp4", tarfile.LNKTYPE, "good.mp4"),
        special("device.mp4", tarfile.CHRTYPE),
        special("pipe.mp4", tarfile.FIFOTYPE),
        ("good.mp4", VIDEO),
    ]
    tar(tmp_path / "a.tar.gz", members)
    found, odd = unpack(tmp_path / "a.tar.gz")
    assert list(found) == ["good.mp4"]
    assert [reason for _, reason in odd] == [
        *["its path leads out of the archive"] * 3,
        "control characters in its name",
        *["not a plain file"] * 4,
    ]
    assert odd[3][0] == r"'new\nline.mp4'"
    assert written(tmp_path) == ["a.tar.gz", "out/good.mp4"]


def test_rar_member_lands_outside(tmp_path):
    rar(tmp_path / "a.rar", [("../up.mp4", VIDEO), ("good.mp4", VIDEO)])
    found, odd = unpack(tmp_path / "a.rar")
    assert (list(found), len(odd)) == (["good.mp4"], 1)


@pytest.mark.parametrize(("name", "value"), [("MEMBERS", 2), ("MEMBER_BYTES", 9_000), ("SLACK", -2_000)])
def test_archive_grows_without_bounds(tmp_path, monkeypatch, name, value):
    tar(tmp_path / "a.tar.gz", [(f"{i}.mp4", VIDEO) for i in range(3)])
    monkeypatch.setattr(archives, "SLACK", 0)
    monkeypatch.setattr(archives, "GROWTH", 1000)
    unpack(tmp_path / "a.tar.gz")
    monkeypatch.setattr(archives, "GROWTH", 10)
    monkeypatch.setattr(archives, name, value)
    with pytest.raises(archives.ArchiveError, match=r"nothing more of it is unpacked"):
        unpack(tmp_path / "a.tar.gz")


def test_endless_header_fills_the_memory(tmp_path):
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(archives.ArchiveError, match="a header of 8589934592 bytes"):
        unpack(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_damage_in_a_member_goes_unnoticed(tmp_path, make):
    noise = hashlib.shake_128(b"").digest(50_000)
    make(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", noise)])
    content = bytearray((tmp_path / "a").read_bytes())
    content[len(content) - 20_000] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(archives.ArchiveError, match="damaged"):
        unpack(tmp_path / "a")


def test_archive_cut_short_goes_unnoticed(tmp_path):
    tar(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", hashlib.shake_128(b"").digest(50_000))])
    whole = (tmp_path / "a").read_bytes()
    for length in (len(whole) - 4, len(whole) // 2, 10):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(archives.ArchiveError, match="damaged"):
            unpack(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"<html>sorry</html>")
    with pytest.raises(archives.ArchiveError, match="no archive"):
        unpack(tmp_path / "a")


def test_damaged_header_is_taken_for_the_end(tmp_path):
    tar(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", VIDEO)])
    content = bytearray(gzip.decompress((tmp_path / "a").read_bytes()))
    content[content.index(b"2.mp4")] ^= 1
    (tmp_path / "a").write_bytes(gzip.compress(content))
    with pytest.raises(archives.ArchiveError, match="a damaged header"):
        unpack(tmp_path / "a")


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_full_disk_leaves_a_cut_video_under_its_name(tmp_path, monkeypatch, make):
    make(tmp_path / "a", [("1.mp4", VIDEO)])

    class Full(io.FileIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        archives, "open", lambda path, mode: (Full if mode == "wb" else io.FileIO)(path, mode), raising=False
    )
    with pytest.raises(OSError, match="No space left"):
        unpack(tmp_path / "a")
    assert written(tmp_path) == ["a"]
