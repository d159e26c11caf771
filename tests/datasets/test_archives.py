"""Archives from the network: nothing lands outside, nothing grows without bounds, damage is seen."""

import gzip
import hashlib
import io
import stat
import tarfile
import time
import tracemalloc
import unicodedata
import zipfile

import pytest

from r2plus1d.datasets import archives
from tests.support.archives import rar, tar, written, zipped

VIDEO = bytes(range(256)) * 40


def unpack(path):
    out = path.parent / "out"
    return archives.unpack(path, lambda name: out / name.rsplit("/", 1)[-1] if name.endswith(".mp4") else None)


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_members_keep_their_content_and_get_digests(tmp_path, make):
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


def test_archive_that_the_server_unpacked_on_the_way_is_read(tmp_path):
    tar(tmp_path / "packed", [("1.mp4", VIDEO)])
    (tmp_path / "a.tar.gz").write_bytes(gzip.decompress((tmp_path / "packed").read_bytes()))
    found, _ = unpack(tmp_path / "a.tar.gz")
    assert found == {"1.mp4": (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())}


def special(name, kind, target="") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_tar_members_are_plain_files_inside_the_folder(tmp_path):
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


def test_rar_members_are_plain_files_inside_the_folder(tmp_path):
    names = ["../up.mp4", "/abs.mp4", "..\\back.mp4", "good.mp4"]
    rar(tmp_path / "a.rar", [(name, VIDEO) for name in names] + [("link.mp4", b"/etc/passwd", 0o120777)])
    found, odd = unpack(tmp_path / "a.rar")
    assert list(found) == ["good.mp4"]
    assert [reason for _, reason in odd] == ["its path leads out of the archive"] * 3 + ["not a plain file"]
    assert written(tmp_path) == ["a.rar", "out/good.mp4"]


def zip_member(name: str, mode: int = 0, **changes) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system, info.compress_type = mode << 16, 3, zipfile.ZIP_DEFLATED
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def test_zip_members_are_plain_files_inside_the_folder(tmp_path):
    modes = {"link.mp4": stat.S_IFLNK, "pipe.mp4": stat.S_IFIFO, "device.mp4": stat.S_IFBLK, "good.mp4": stat.S_IFREG}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("../up.mp4", "/abs.mp4", "a/../../b.mp4", "new\nline.mp4", *modes, "plain.mp4"):
            archive.writestr(zip_member(name, modes.get(name, 0) | 0o777), VIDEO)
    found, odd = unpack(tmp_path / "a.zip")
    assert list(found) == ["good.mp4", "plain.mp4"]
    assert [reason for _, reason in odd] == [
        *["its path leads out of the archive"] * 3,
        "control characters in its name",
        *["not a plain file"] * 3,
    ]
    assert written(tmp_path) == ["a.zip", "out/good.mp4", "out/plain.mp4"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_bomb_of_another_method_is_passed_over_in_little_memory(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("1.mp4", bytes(80 << 20))
    tracemalloc.start()
    found, odd = unpack(tmp_path / "a.zip")
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()
    assert (found, odd) == ({}, [("1.mp4", "packed by another method than deflate")])


def test_overlapping_zip_members_are_stopped_early(tmp_path, monkeypatch):
    """Many entries of the directory that share one packed file: 10 MB have become petabytes."""
    monkeypatch.setattr(archives, "SLACK", 1 << 20)
    zipped(tmp_path / "a.zip", [("0.mp4", bytes(200_000))])
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        for number in range(1, 100):
            copied = zip_member(f"{number}.mp4")
            for key in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(copied, key, getattr(archive.filelist[0], key))
            archive.filelist.append(copied)
        archive._didModify = True
    with pytest.raises(archives.ArchiveError):
        unpack(tmp_path / "a.zip")
    assert len(written(tmp_path)) < 10


@pytest.mark.parametrize("make", [tar, zipped])
def test_what_is_passed_over_counts_towards_the_bounds(tmp_path, monkeypatch, make):
    monkeypatch.setattr(archives, "SLACK", 0)
    make(tmp_path / "a", [(f"../{i}.txt", bytes(100_000)) for i in range(3)])
    with pytest.raises(archives.ArchiveError, match="nothing more of it is unpacked"):
        unpack(tmp_path / "a")


def test_lists_of_an_archive_are_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ALL_TEXTS", 250)
    zipped(tmp_path / "a", [(f"{i}.txt", b"x" * 100) for i in range(3)])
    with pytest.raises(archives.ArchiveError, match="lists of more than 250 bytes"):
        archives.read_texts(tmp_path / "a")
    monkeypatch.setattr(archives, "ALL_TEXTS", 300)
    assert len(archives.read_texts(tmp_path / "a")) == 3


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.REGTYPE])
def test_members_are_read_up_to_a_number(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MEMBERS", 5)
    tar(tmp_path / "a", [special(f"._{i}", kind) for i in range(6)])
    for read in (unpack, archives.read_texts):
        with pytest.raises(archives.ArchiveError, match="more than 5 members"):
            read(tmp_path / "a")


def test_directory_of_a_zip_is_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LONGEST_READ", 50_000)
    zipped(tmp_path / "a", [(f"{i}.mp4", b"") for i in range(1000)])
    with pytest.raises(archives.ArchiveError, match=r"a header of 5\d+ bytes"):
        unpack(tmp_path / "a")


def test_sparse_tar_member_is_bounded_by_its_full_size_and_never_unpacked(tmp_path):
    info = tarfile.TarInfo("holes.mp4")
    info.pax_headers = {"GNU.sparse.size": str(1 << 43), "GNU.sparse.numblocks": "0"}
    tar(tmp_path / "a", [info])
    with pytest.raises(archives.ArchiveError, match="nothing more of it is unpacked"):
        unpack(tmp_path / "a")
    info.pax_headers["GNU.sparse.size"] = "1000"
    tar(tmp_path / "a", [info, ("good.mp4", VIDEO)])
    found, odd = unpack(tmp_path / "a")
    assert (list(found), odd) == (["good.mp4"], [("holes.mp4", "not a plain file")])


def test_member_without_a_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("1.mp4", VIDEO)
        archive.filelist[0].filename = ""
    tar(tmp_path / "b", [("1.mp4", VIDEO), ("", VIDEO)])
    for name in ("a", "b"):
        with pytest.raises(archives.ArchiveError, match=f"{name}: damaged, or no archive"):
            unpack(tmp_path / name)


def test_content_before_the_start_of_a_zip_is_refused(tmp_path):
    zipped(tmp_path / "a", [("1.mp4", VIDEO)])
    content = bytearray((tmp_path / "a").read_bytes())
    at = content.index(b"PK\5\6") + 16
    content[at : at + 4] = (int.from_bytes(content[at : at + 4], "little") + 100).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(archives.ArchiveError):
        unpack(tmp_path / "a")


def test_negative_size_is_refused(tmp_path):
    info = tarfile.TarInfo("1.mp4")
    info.size = -512
    for header in (info.tobuf(tarfile.GNU_FORMAT), special("d", tarfile.DIRTYPE).tobuf() + info.tobuf()):
        (tmp_path / "a").write_bytes(header + bytes(1024))
        for read in (unpack, archives.read_texts):
            with pytest.raises(archives.ArchiveError):
                read(tmp_path / "a")


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_first_member_of_a_name_keeps_its_place(tmp_path, make):
    make(tmp_path / "a", [("1.mp4", VIDEO), ("1.mp4", VIDEO[::-1] + b"!")])
    found, _ = unpack(tmp_path / "a")
    assert found == {"1.mp4": (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())}
    assert (tmp_path / "out" / "1.mp4").read_bytes() == VIDEO


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_names_that_differ_in_case_or_normal_form_only_are_told_apart(tmp_path, make):
    names = ["a.mp4", "A.mp4", *(unicodedata.normalize(form, "\u00e9.mp4") for form in ("NFC", "NFD"))]
    if make is rar:
        names = names[:2]  # this writer knows no other names
    make(tmp_path / "a", [(name, name.encode()) for name in names])
    found, _ = archives.unpack(tmp_path / "a", lambda name: tmp_path / "out" / name.encode().hex())
    assert list(found) == names
    assert {p.read_bytes() for p in (tmp_path / "out").iterdir()} == {name.encode() for name in names}


def test_long_headers_are_refused_at_once(tmp_path):
    """Python 3.11's tarfile looks for a number from each of a header's digits on: days for 16 MB of them."""
    for size in (30_000, 1_000_000):
        info = tarfile.TarInfo("1.mp4")
        info.pax_headers = {"comment": "1" * size}
        with tarfile.open(tmp_path / "a", "w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(info)
        began = time.monotonic()
        with pytest.raises(archives.ArchiveError, match="a header of"):
            unpack(tmp_path / "a")
        assert time.monotonic() - began < 1


def test_chained_headers_are_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "a").write_bytes((header.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 50_000)
    with pytest.raises(archives.ArchiveError):
        unpack(tmp_path / "a")


@pytest.mark.parametrize(("name", "value"), [("MEMBERS", 2), ("MEMBER_BYTES", 9_000), ("SLACK", -2_000)])
def test_archive_is_unpacked_up_to_its_bounds(tmp_path, monkeypatch, name, value):
    tar(tmp_path / "a.tar.gz", [(f"{i}.mp4", VIDEO) for i in range(3)])
    monkeypatch.setattr(archives, "SLACK", 0)
    monkeypatch.setattr(archives, "GROWTH", 1000)
    unpack(tmp_path / "a.tar.gz")
    monkeypatch.setattr(archives, "GROWTH", 10)
    monkeypatch.setattr(archives, name, value)
    with pytest.raises(archives.ArchiveError, match=r"nothing more of it is unpacked"):
        unpack(tmp_path / "a.tar.gz")


def test_endless_header_is_refused_unread(tmp_path):
    header = tarfile.TarInfo("PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(archives.ArchiveError, match="a header of 8589934592 bytes"):
        unpack(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_damage_in_a_member_is_noticed(tmp_path, make):
    noise = hashlib.shake_128(b"").digest(50_000)
    make(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", noise)])
    content = bytearray((tmp_path / "a").read_bytes())
    content[len(content) - 20_000] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(archives.ArchiveError, match="damaged"):
        unpack(tmp_path / "a")


def test_archive_cut_short_is_noticed(tmp_path):
    tar(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", hashlib.shake_128(b"").digest(50_000))])
    whole = (tmp_path / "a").read_bytes()
    for length in (len(whole) - 4, len(whole) // 2, 10):
        (tmp_path / "a").write_bytes(whole[:length])
        with pytest.raises(archives.ArchiveError, match="damaged"):
            unpack(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"<html>sorry</html>")
    with pytest.raises(archives.ArchiveError, match="no archive"):
        unpack(tmp_path / "a")


def test_damaged_header_is_told_from_the_end(tmp_path):
    tar(tmp_path / "a", [("1.mp4", VIDEO), ("2.mp4", VIDEO)])
    content = bytearray(gzip.decompress((tmp_path / "a").read_bytes()))
    content[content.index(b"2.mp4")] ^= 1
    (tmp_path / "a").write_bytes(gzip.compress(content))
    with pytest.raises(archives.ArchiveError, match="a damaged header"):
        unpack(tmp_path / "a")


@pytest.mark.parametrize("make", [tar, rar, zipped])
def test_full_disk_leaves_nothing_under_the_name_of_a_video(tmp_path, monkeypatch, make):
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
