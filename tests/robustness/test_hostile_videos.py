"""Hostile and odd videos: each is decoded or set aside with its reason, the same each time, and opens no other file."""

import contextlib
import io
import os
import re
import socket
import threading
import time
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from r2plus1d.video import decoding, extraction, probe, sandbox, shards
from r2plus1d.video.decoding import VideoError
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.reading import VideoReader

NO_CONTAINER = "no valid file in a container that is read"
INVALID = "Invalid data found when processing input"


def outcome(path: Path) -> tuple[int, tuple] | str:
    """(frames, shape of each), or why the video is set aside: the same here, in the process apart and again."""
    found = []
    for decode in (sandbox.decode, sandbox.decode, decoding.decode):
        try:
            images = [image.copy() for image in decode(path)]
            found.append((len(images), np.stack(images).tobytes(), images[0].shape))
        except VideoError as error:
            found.append(str(error))
    assert found[0] == found[1] == found[2]
    return found[0] if isinstance(found[0], str) else found[0][::2]


def encoded(
    path: Path, codec="libx264", pixels="yuv420p", size=(48, 64), count=12, options=None, times=None, title=""
) -> Path:
    """A video of `count` frames of ever lighter gray; `times` are their timestamps."""
    container = {".h264": "h264"}.get(path.suffix)
    with av.open(str(path), "w", format=container) as target:
        target.metadata["title"] = title
        stream = target.add_stream(codec, rate=25)
        (stream.height, stream.width), stream.pix_fmt = size, pixels
        stream.codec_context.thread_count = 1
        stream.options = options or {}
        for number in range(count):
            image = np.full((*size, 3), number * 5, np.uint8)
            if pixels == "pal8":
                gray = np.arange(256, dtype=np.uint8)[:, None].repeat(4, 1)
                frame = av.VideoFrame.from_ndarray((image[..., 0].copy(), gray), format="pal8")
            else:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def mp4(tmp_path_factory) -> bytes:
    return encoded(tmp_path_factory.mktemp("mp4") / "v.mp4", count=40, options={"g": "8"}).read_bytes()


def patched(data: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """`value` written so many bytes behind the name of a box."""
    place = data.index(box) + offset
    return data[:place] + value + data[place + len(value) :]


def all_patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    return b"".join(
        part if number == 0 else mark + part[: offset - len(mark)] + value + part[offset - len(mark) + len(value) :]
        for number, part in enumerate(data.split(mark))
    )


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("v.mkv", "ffv1", "yuv444p10le"),
        ("v.mkv", "ffv1", "gray"),
        ("v.mkv", "ffv1", "gray16le"),
        ("v.mkv", "ffv1", "yuva420p"),
        ("v.mov", "png", "rgba"),
        ("v.mov", "png", "pal8"),
        ("v.avi", "mjpeg", "yuvj420p"),
        ("v.avi", "mpeg4", "yuv420p"),
        ("v.webm", "libvpx-vp9", "yuv420p"),
        ("v.mpg", "mpeg1video", "yuv420p"),
        ("v.ts", "mpeg2video", "yuv420p"),
        ("v.mxf", "mpeg2video", "yuv420p"),
        ("v.flv", "flv", "yuv420p"),
        ("v.wmv", "wmv2", "yuv420p"),
    ],
)
def test_containers_and_pixel_formats_that_people_have_are_decoded(tmp_path, name, codec, pixels):
    assert outcome(encoded(tmp_path / name, codec, pixels)) == (12, (48, 64, 3))


def test_interlaced_video_is_decoded(tmp_path):
    options = {"flags": "+ildct+ilme"}
    assert outcome(encoded(tmp_path / "v.ts", "mpeg2video", options=options)) == (12, (48, 64, 3))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 32)])
def test_odd_size_is_decoded_and_extracted(tmp_path, size):
    path = encoded(tmp_path / "v.mkv", "ffv1", "gray", size)
    assert outcome(path) == (12, (*size, 3))
    assert extract(tmp_path, path) == {}
    assert shards.read_index(tmp_path / "frames").loc["v.mkv", "frames"] == 12


def extract(folder: Path, *paths: Path) -> dict[str, str]:
    """The reasons of the videos of which nothing is packed."""
    listed = [Listed(path.name) for path in paths]
    readable, _, unreadable = probe.probe(folder, listed, folder / "looking", Machines(0))
    counts = {row.path: row.frames for row in readable}
    extraction.extract(folder, listed, counts, 32, folder / "work", folder / "frames", Machines(0))
    return dict(unreadable)


def test_frame_of_1_x_5000_is_set_aside(tmp_path):
    path = encoded(tmp_path / "v.mkv", "ffv1", "gray", (1, 5000))
    assert outcome(path) == "frames of 5000 x 1 pixels; at most 32 : 1 is read"


@pytest.mark.parametrize(
    "times", [[0, 1, 2, 10, 11, 50, 51, 52, 53, 90, 91, 2000], [0, 1, 2, 3, 4, 5, 6, 7, *range(10**7, 10**7 + 4)]]
)
def test_variable_frame_rate_or_a_gap_keeps_every_frame_once(tmp_path, times):
    assert outcome(encoded(tmp_path / "v.mkv", times=times)) == (12, (48, 64, 3))


@pytest.mark.parametrize("delta", [0, 2**32 - 1])
def test_timestamps_that_stand_still_or_run_backwards_leave_the_frames_that_a_player_shows(tmp_path, mp4, delta):
    """FFmpeg takes some frames for parts that the mp4's edit list leaves out."""
    (tmp_path / "v.mp4").write_bytes(patched(mp4, b"stts", 16, delta.to_bytes(4, "big")))
    count, _ = outcome(tmp_path / "v.mp4")
    assert 0 < count < 40
    whole = list(decoding.decode(tmp_path / "v.mp4"))
    some = VideoReader(tmp_path).read("v.mp4", np.array([0, count - 1]), count)
    assert np.array_equal(some, [whole[0], whole[-1]])


@pytest.mark.parametrize("name", ["sizes.ts", "sizes.h264"])
def test_size_that_changes_amid_a_video_becomes_that_of_its_first_frame(tmp_path, name):
    """All frames get the size of the first, as ffmpeg does."""
    parts = [encoded(tmp_path / f"{size[0]}{name}", size=size) for size in ((48, 64), (96, 80))]
    path = tmp_path / f"{name}.mp4"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert outcome(path) == (24, (48, 64, 3))
    assert VideoReader(tmp_path).read(path.name, np.array([0, 23])).shape == (2, 48, 64, 3)
    assert extract(tmp_path, path) == {}


def test_frames_are_decoded_up_to_a_number(tmp_path, mp4, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(mp4)
    assert len(list(decoding.decode(tmp_path / "v.mp4"))) == 40
    for name, most in (("MAX_FRAMES", 30), ("MAX_ALL_PIXELS", 30 * 48 * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(decoding, name, most)
            with pytest.raises(VideoError, match="too long: more than 30 frames"):
                list(decoding.decode(tmp_path / "v.mp4"))


def sequence_header(blocks: int) -> bytes:
    """An h264 sequence parameter set for a picture of `blocks` x `blocks` macroblocks of 16 x 16 pixels."""

    def golomb(number: int) -> str:
        return "0" * ((number + 1).bit_length() - 1) + f"{number + 1:b}"

    bits = golomb(0) + golomb(0) + golomb(2) + golomb(1) + "0" + golomb(blocks - 1) * 2 + "11" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    return bytes([0x67, 66, 0, 62]) + int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_absurd_size_is_set_aside_in_little_memory(tmp_path, mp4):
    options = {"profile": "baseline", "x264-params": "annexb=1"}
    stream = encoded(tmp_path / "a.h264", options=options).read_bytes()
    end = stream.index(b"\0\0\0\1", 4)
    jpegs = encoded(tmp_path / "a.avi", "mjpeg", "yuvj420p").read_bytes()
    pngs = encoded(tmp_path / "a.mov", "png", "rgba").read_bytes()
    side = (60000).to_bytes(4, "big")
    header = b"IHDR" + side + side + pngs[pngs.index(b"IHDR") + 12 :][:5]
    pngs = all_patched(pngs, b"IHDR", 4, header[4:] + zlib.crc32(header).to_bytes(4, "big"))
    cases = {
        "4095.h264.mp4": b"\0\0\0\1" + sequence_header(4095) + stream[end:],
        "600.h264.mp4": b"\0\0\0\1" + sequence_header(600) + stream[end:],
        "jpeg.avi": all_patched(jpegs, b"\xff\xc0\0\x11", 5, b"\xff" * 4),
        "png.mov": pngs,
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        assert isinstance(outcome(tmp_path / name), str), name
    assert outcome(tmp_path / "600.h264.mp4").startswith("frames of 9600 x 9600 pixels")
    for value in (b"\xff" * 4, bytes(4)):  # in the container's header alone; the stream knows better
        (tmp_path / "header.mp4").write_bytes(
            mp4[: mp4.index(b"stsd")] + patched(mp4[mp4.index(b"stsd") :], b"avc1", 28, value)
        )
        assert outcome(tmp_path / "header.mp4") == (40, (48, 64, 3))
    status = Path(f"/proc/{sandbox._own.process._popen.pid}/status")
    if status.exists():
        peak = int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])
        assert peak < 200 * 1024, "KiB"


def test_frames_that_are_announced_and_absent_set_a_video_aside(tmp_path, mp4):
    (tmp_path / "a.mp4").write_bytes(patched(mp4, b"stts", 12, (2**30).to_bytes(4, "big")))
    assert outcome(tmp_path / "a.mp4") == "cut off: 40 of 1073741824 frames"
    (tmp_path / "b.mp4").write_bytes(patched(mp4, b"stsz", 12, (2**31 - 1).to_bytes(4, "big")))
    assert outcome(tmp_path / "b.mp4") == INVALID


def test_video_of_which_a_tenth_is_missing_is_kept_and_of_which_more_is_set_aside(tmp_path, mp4):
    for announced, expected in ((44, (40, (48, 64, 3))), (46, "cut off: 40 of 46 frames")):
        (tmp_path / "v.mp4").write_bytes(patched(mp4, b"stts", 12, announced.to_bytes(4, "big")))
        assert outcome(tmp_path / "v.mp4") == expected


def broken(mp4: bytes) -> dict[str, bytes]:
    noise = np.random.default_rng(0).bytes(600)
    middle = mp4.index(b"mdat") + 1000
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("v.mp4", mp4)
    return {
        "empty": b"",
        "zeros": bytes(100_000),
        "cut": mp4[: len(mp4) // 2],
        "garbage": mp4[:middle] + noise + mp4[middle + 600 :],
        "zip": archive.getvalue(),
        "header": mp4[: mp4.index(b"moov") + 200],
    }


@pytest.mark.parametrize("name", ["empty", "zeros", "cut", "garbage", "zip", "header"])
def test_broken_file_is_set_aside(tmp_path, mp4, name):
    (tmp_path / "v.mp4").write_bytes(broken(mp4)[name])
    assert isinstance(outcome(tmp_path / "v.mp4"), str)


@pytest.mark.parametrize(("codec", "pixels", "name"), [("gif", "rgb8", "v.gif"), ("libwebp_anim", "bgra", "v.webp")])
def test_pictures_under_a_video_s_name_are_set_aside(tmp_path, codec, pixels, name):
    path = encoded(tmp_path / name, codec, pixels).rename(tmp_path / "v.mp4")
    assert outcome(path).startswith(NO_CONTAINER)


def test_codec_that_nobody_knows_sets_a_video_aside(tmp_path, mp4):
    (tmp_path / "v.mp4").write_bytes(mp4.replace(b"avc1", b"Xvc1"))
    assert outcome(tmp_path / "v.mp4") == "no decoder for its video stream"


def flv_tags(path: Path) -> tuple[bytearray, list[int]]:
    """An flv of 12 frames, and where the tags of its frames begin."""
    data, places, at = bytearray(encoded(path, "flv").read_bytes()), [], 13
    while at < len(data):
        places += [at] if data[at] == 9 else []
        at += 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
    assert len(places) == 12
    return data, places


def test_stream_without_a_frame_sets_a_video_aside_though_another_begins_late(tmp_path):
    """The first frame says that it is h264: FFmpeg takes the others for another stream."""
    data, (first, *_) = flv_tags(tmp_path / "a.flv")
    data[first + 11 : first + 13] = b"\x67\xeb"
    (tmp_path / "v.flv").write_bytes(data)
    for _ in range(5):  # what PyAV does at the end hangs on what was in memory
        assert outcome(tmp_path / "v.flv") == "no frames"


@pytest.mark.parametrize("kind", [8, 9], ids=["sound", "another video"])
def test_stream_that_begins_late_takes_nothing_from_the_first(tmp_path, kind):
    data, places = flv_tags(tmp_path / "a.flv")
    for place in places[-2:]:
        data[place] = kind
        data[place + 11] = 0x2F if kind == 8 else 0x24  # mp3; VP6
    (tmp_path / "v.flv").write_bytes(data)
    for _ in range(5):
        assert outcome(tmp_path / "v.flv") == (10, (48, 64, 3))


def test_title_in_another_encoding_leaves_a_video_readable(tmp_path):
    path = tmp_path / "v.mkv"
    encoded(path, title="caf?")
    path.write_bytes(path.read_bytes().replace(b"caf?", b"caf\xe9"))
    assert outcome(path) == (12, (48, 64, 3))


def test_video_without_key_frames_is_set_aside(tmp_path):
    """What is left has no beginning: nothing of it can be shown."""
    source = encoded(tmp_path / "a.ts", count=30, options={"g": "100", "bf": "0"})
    with av.open(str(source)) as whole, av.open(str(tmp_path / "b.ts"), "w") as rest:
        stream = rest.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and not packet.is_keyframe:
                packet.stream = stream
                rest.mux(packet)
    assert isinstance(outcome(tmp_path / "b.ts"), str)


def test_largest_stream_that_is_no_cover_picture_is_the_video(tmp_path, mp4):
    cover = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
    for name, streams in (("cover.mp4", 0), ("two.mkv", 2)):
        with av.open(str(tmp_path / name), "w") as container:
            picture = container.add_stream("mjpeg", rate=25)
            picture.height, picture.width, picture.pix_fmt = 16, 16, "yuvj420p"
            if not streams:
                picture.disposition = av.stream.Disposition.attached_pic
                sound = container.add_stream("aac", rate=8000)
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 8000
                container.mux(sound.encode(silence))
                container.mux(sound.encode(None))
            else:
                other = container.add_stream("libx264", rate=25)
                other.height, other.width, other.pix_fmt = 48, 64, "yuv420p"
                gray = np.full((48, 64, 3), 9, np.uint8)
                container.mux(other.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
                container.mux(other.encode(None))
            container.mux(picture.encode(cover))
            container.mux(picture.encode(None))
    assert outcome(tmp_path / "cover.mp4") == "no video stream"
    assert outcome(tmp_path / "two.mkv") == (1, (48, 64, 3)), "the largest"


@pytest.mark.parametrize(
    "name", ["-x.mp4", "a:b.mp4", "%d.mp4", "pipe:0", "file:x.mp4", "two\nlines.mp4", "\udcff.mp4", "http:", "*?.mp4"]
)
def test_name_is_a_plain_path_to_ffmpeg(tmp_path, mp4, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(mp4)
    assert outcome(Path(name)) == (40, (48, 64, 3))


def test_fifo_or_a_device_is_set_aside_unread(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")
    (tmp_path / "link.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("v.mp4", "link.mp4", "folder.mp4"):
        assert outcome(tmp_path / name) == "not a regular file"


@pytest.fixture
def visits():
    """(port of a server on this machine, list of what connected to it)"""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                seen.append(address)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)


def plainly(path: Path, **options: str) -> int:
    """Frames that FFmpeg gets from a file without our restrictions."""
    with av.open(str(path), options=options) as container:
        return sum(1 for _ in container.decode(video=0))


def test_playlist_under_a_video_s_name_opens_no_other_file_and_no_connection(tmp_path, mp4, visits):
    (tmp_path / "secret.mp4").write_bytes(mp4)
    port, seen = visits
    url = f"http://127.0.0.1:{port}/v.ts"
    rtp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    texts = {
        "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
        "far.mp4": f"ffconcat version 1.0\nfile {url}\n",
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "sdp.mp4": rtp + "a=rtpmap:96 H264/90000\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert plainly(tmp_path / "concat.mp4") == 40, "this would show nothing"
    with contextlib.suppress(av.FFmpegError):
        plainly(tmp_path / "list.m3u8", protocol_whitelist="file,http,tcp")
    time.sleep(0.1)
    assert seen, "this would show nothing"
    seen.clear()
    for name in texts:
        assert outcome(tmp_path / name).startswith((NO_CONTAINER, INVALID)), name
    time.sleep(0.1)
    assert seen == []


def test_mp4_that_refers_to_another_file_is_set_aside(tmp_path, mp4):
    """A data reference: `flags` say that the frames lie elsewhere, in the file of that name."""
    (tmp_path / "secret.mp4").write_bytes(mp4)
    reference = b"file:secret.mp4\0"
    old = b"\0\0\0\x0curl \0\0\0\x01"
    place = mp4.index(old)
    new = (12 + len(reference)).to_bytes(4, "big") + b"url \0\0\0\0" + reference
    data = bytearray(mp4[:place] + new + mp4[place + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(box) - 4
        data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + len(reference)).to_bytes(4, "big")
    middle = data.index(b"mdat") + 4
    data[middle : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - middle)  # its own frames are gone
    (tmp_path / "v.mp4").write_bytes(data)
    assert isinstance(outcome(tmp_path / "v.mp4"), str)


def test_video_changed_after_its_extraction_is_named_in_the_error(tmp_path, mp4):
    (tmp_path / "v.mp4").write_bytes(broken(mp4)["garbage"])
    with pytest.raises(VideoError, match=r"v\.mp4: Invalid data .*, though it could be read before"):
        VideoReader(tmp_path).read("v.mp4", np.array([0, 39]))
