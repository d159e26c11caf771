"""Every kind of file that people have, frame by frame against the ffmpeg program: same frames, same pixels."""

import functools
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from r2plus1d.video import extraction, shards
from r2plus1d.video.decoding import VideoError, decode
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.reading import VideoReader
from tests.support.joined import join

SOURCE = "testsrc2=size=64x48:rate=30:duration=1.2"
X264 = "-c:v libx264 -pix_fmt yuv420p"
# name of the file: how ffmpeg makes it; {src} is a plain video of the zoo.
MADE = {
    "plain.mp4": f"-f lavfi -i {SOURCE} {X264}",
    "plain.mov": "-i {src} -c copy",
    "plain.mkv": "-i {src} -c copy",
    "plain.flv": "-i {src} -c copy",
    "plain.ts": "-i {src} -c copy",
    "plain.avi": f"-i {{src}} {X264} -bf 0",
    "fragments.mp4": "-i {src} -c copy -movflags frag_keyframe+empty_moov",
    "faststart.mp4": "-i {src} -c copy -movflags +faststart",
    "hevc.mp4": "-i {src} -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p",
    "hevc.mkv": "-i {src} -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p",
    "mpeg4.avi": "-i {src} -c:v mpeg4",
    "mpeg4_b.avi": "-i {src} -c:v mpeg4 -bf 2",
    "mpeg4.mp4": "-i {src} -c:v mpeg4 -bf 2",
    "mpeg2.mpg": "-i {src} -c:v mpeg2video -bf 2",
    "mpeg2.ts": "-i {src} -c:v mpeg2video",
    "mpeg1.mpg": "-i {src} -c:v mpeg1video",
    "vp8.webm": "-i {src} -c:v libvpx -b:v 200k",
    "vp9.webm": "-i {src} -c:v libvpx-vp9 -b:v 200k",
    "mjpeg.avi": "-i {src} -c:v mjpeg -pix_fmt yuvj420p",
    "mjpeg.mov": "-i {src} -c:v mjpeg -pix_fmt yuvj422p",
    "theora.ogv": "-i {src} -c:v libtheora",
    "wmv.wmv": "-i {src} -c:v wmv2",
    "flv1.flv": "-i {src} -c:v flv1",
    "ffv1.mkv": "-i {src} -c:v ffv1",
    "prores.mov": "-i {src} -c:v prores_ks",
    "huffyuv.avi": "-i {src} -c:v huffyuv",
    "h264_422.mp4": "-i {src} -c:v libx264 -pix_fmt yuv422p",
    "h264_444.mp4": "-i {src} -c:v libx264 -pix_fmt yuv444p",
    "nv12.mkv": "-i {src} -c:v rawvideo -pix_fmt nv12",
    "ffv1_411.avi": "-i {src} -c:v ffv1 -pix_fmt yuv411p",
    "gray.mp4": "-i {src} -c:v libx264 -pix_fmt gray",
    "rgb.mkv": "-i {src} -c:v libx264rgb -pix_fmt rgb24",
    "no_b.mp4": f"-i {{src}} {X264} -bf 0",
    "short_groups.mp4": f"-i {{src}} {X264} -g 5",
    "open_groups.mp4": f"-i {{src}} {X264} -x264-params open-gop=1:keyint=9:bframes=3:b-adapt=0",
    "intra_refresh.mp4": f"-i {{src}} {X264} -x264-params intra-refresh=1:keyint=12",
    "fields.mp4": f"-i {{src}} {X264} -flags +ildct+ilme -x264-params tff=1",
    "fields.mpg": "-i {src} -c:v mpeg2video -flags +ildct+ilme",
    "full_range.mp4": "-i {src} -vf scale=out_range=full -c:v libx264 -pix_fmt yuvj420p",
    "bt709.mp4": f"-i {{src}} {X264} -colorspace bt709 -color_primaries bt709 -color_trc bt709",
    "bt2020.mp4": f"-i {{src}} {X264} -colorspace bt2020nc",
    "smpte240.mp4": f"-i {{src}} {X264} -colorspace smpte240m",
    "pixels.mp4": f"-i {{src}} {X264} -aspect 16:9",
    "odd_size.mp4": "-i {src} -vf scale=65:49 -c:v libx264 -pix_fmt yuv444p",
    "odd_size.mkv": "-i {src} -vf scale=65:49 -c:v ffv1 -pix_fmt yuv420p",
    "cropped.mp4": f"-i {{src}} -vf scale=66:50 {X264}",
    "late.mp4": "-i {src} -c copy -output_ts_offset 5",
    "late.ts": "-i {src} -c copy -output_ts_offset 5",
    "uneven.mp4": f"-i {{src}} -vf setpts='PTS+0.3*sin(N)/TB/30' -fps_mode passthrough {X264}",
    "gap.mkv": f"-i {{src}} -vf select='not(between(n,10,20))' -fps_mode passthrough {X264}",
    "cut.mp4": "-ss 0.5 -i {src} -t 0.4 -c copy",
    "cut.mov": "-ss 0.7 -i {src} -c copy",
    "dropped.avi": "-i {src} -vf select='not(mod(n,3))' -fps_mode passthrough -enc_time_base 1/30 -c:v mpeg4",
    "mirrored.mp4": "-display_hflip -i {src} -c copy",
    "flipped.mp4": "-display_vflip -i {src} -c copy",
    **{f"turned_{angle}.mp4": f"-display_rotation {angle} -i {{src}} -c copy" for angle in (90, 180, 270)},
    **{f"turned_{a}_mirrored.mp4": f"-display_rotation {a} -display_hflip -i {{src}} -c copy" for a in (90, 180, 270)},
    "preview_first.mp4": f"-f lavfi -i testsrc=size=32x24:rate=30:duration=0.1 -i {{src}} -map 0:v -map 1:v {X264}",
    "sound.mp4": f"-i {{src}} -f lavfi -i sine=duration=1 {X264} -c:a aac -shortest",
    "one_frame.mp4": f"-i {{src}} -frames:v 1 {X264}",
}
# Ten bits are reduced by another interpolation of the colours, which are stored at half the size.
DEEP = {
    "h264_10.mp4": "-i {src} -c:v libx264 -pix_fmt yuv420p10le",
    "hevc_10.mkv": "-i {src} -c:v libx265 -x265-params log-level=error -pix_fmt yuv420p10le",
}
FIELDS = ("fields.mp4", "fields.mpg")  # their colours are interpolated within each field, as `interl=1` has it
SIDE = 24
SHUFFLED = np.random.default_rng(0)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def ffmpeg(*words: str) -> bytes:
    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", "-threads", "1", *words]
    return subprocess.run(command, check=True, capture_output=True).stdout


def made(zoo: Path, name: str) -> Path:
    file, source = zoo / name, zoo / "plain.mp4"
    if not source.exists():
        ffmpeg(*MADE["plain.mp4"].split(), str(source))
    if not file.exists():
        ffmpeg(*(MADE | DEEP)[name].format(src=source).split(), str(file))
    return file


def expected(file: Path, like: np.ndarray) -> np.ndarray:
    fields = ["-vf", "scale=interl=1"] if file.name in FIELDS else []
    how = [*fields, "-fps_mode", "passthrough", "-sws_flags", "bicubic", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    return np.frombuffer(ffmpeg("-i", str(file), *how), np.uint8).reshape(-1, *like.shape[1:])


def both(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The frames by the project and by ffmpeg, as many."""
    found = np.stack(list(decode(file)))
    theirs = expected(file, found)
    assert len(found) == len(theirs)
    return found, theirs


@pytest.mark.parametrize("name", MADE)
def test_frames_and_pixels_are_those_of_ffmpeg(zoo, name):
    found, theirs = both(made(zoo, name))
    assert np.array_equal(found, theirs)
    for _ in range(3):  # the same frames, by decoding no more than they need
        few = np.sort(SHUFFLED.choice(len(found), min(3, len(found)), replace=False))
        assert np.array_equal(VideoReader(zoo).read(name, few, len(found)), found[few])


@pytest.fixture(scope="module")
def packed(zoo, tmp_path_factory) -> tuple[dict[str, int], Path]:
    """(numbers of frames, the folder of packed frames) of all files, at a short side of SIDE."""
    folder = tmp_path_factory.mktemp("packed")
    counts = {name: len(list(decode(made(zoo, name)))) for name in MADE | DEEP}
    listed = [Listed(name) for name in counts]
    extraction.extract(zoo, listed, counts, SIDE, folder / "work", folder / "frames", Machines(0))
    return counts, folder / "frames"


@pytest.mark.parametrize("name", MADE | DEEP)
def test_frames_on_the_fly_have_the_pixels_of_packed_ones(zoo, packed, name):
    counts, folder = packed
    reader = VideoReader(zoo, functools.partial(extraction.packed, short_side=SIDE))
    count, stored = counts[name], shards.FrameReader(folder)
    for wanted in (np.arange(count), np.arange(count)[::-7], np.zeros(3, np.int64)):
        assert np.array_equal(reader.read(name, wanted, count), stored.read(name, wanted, count))


MANDELBROT = "-f lavfi -i mandelbrot=size=64x48:rate=30 -t 1.2 -c:v libx264 -pix_fmt yuv420p -g 9"
# Parts of a joined file, each with parameter sets that give other pixels where they are taken for another one's.
PARTS = {
    "a": f"{MANDELBROT} -x264-params chroma-qp-offset=0",
    "b": f"{MANDELBROT} -x264-params chroma-qp-offset=6:cqm=jvt",
    "large": f"{MANDELBROT} -vf scale=96:64 -profile:v baseline",
}


def part(zoo: Path, name: str) -> Path:
    if not (file := zoo / f"part_{name}.mp4").exists():
        ffmpeg(*PARTS[name].split(), str(file))
    return file


def check_joined(file: Path) -> None:
    whole, theirs = both(file)
    same = 36 if "large" in file.name else len(whole)  # frames of another size are scaled in one step more by ffmpeg
    assert np.array_equal(whole[:same], theirs[:same])
    last = len(whole) - 1
    for wanted in ([last], [5, last], [40, 55], [12], [3, 20, 39, 60]):
        assert np.array_equal(VideoReader(file.parent).read(file.name, np.array(wanted), len(whole)), whole[wanted])


def test_parameter_sets_that_change_amid_a_file_change_no_pixel(zoo):
    """Two streams in one, each with its own within its packets, as ffmpeg joins files."""
    (zoo / "list.txt").write_text("".join(f"file {part(zoo, name).name}\n" for name in "ab"))
    ffmpeg("-f", "concat", "-i", str(zoo / "list.txt"), "-c", "copy", str(zoo / "concatenated.mp4"))
    check_joined(zoo / "concatenated.mp4")


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("a", "b", "a"), ("a", "large"), ("large", "a")])
def test_file_with_several_sample_descriptions_gives_the_pixels_of_ffmpeg(zoo, names):
    """Each part with its own, as MP4Box joins files."""
    check_joined(join([part(zoo, name) for name in names], zoo / f"{'_'.join(names)}.mp4"))


@pytest.mark.parametrize("name", DEEP)
def test_brightness_of_ten_bits_is_that_of_ffmpeg(zoo, name):
    found, theirs = both(made(zoo, name))
    grey = np.array([0.299, 0.587, 0.114])
    assert np.abs((found - theirs.astype(float)) @ grey).mean() < 1


def test_matrix_of_zeros_leaves_the_picture_as_it_is(zoo):
    plain = made(zoo, "plain.mp4").read_bytes()
    at = plain.index(b"tkhd") + 44  # behind the name: version, times, number, length, layer, volume
    assert int.from_bytes(plain[at : at + 4], "big") == 1 << 16
    (zoo / "zeros.mp4").write_bytes(plain[:at] + bytes(36) + plain[at + 36 :])
    assert all(np.array_equal(a, b) for a, b in zip(decode(zoo / "zeros.mp4"), decode(zoo / "plain.mp4"), strict=True))


@pytest.mark.parametrize("name", ["plain.avi", "faststart.mp4", "dropped.avi", "cut.mp4"])
def test_half_of_a_file_is_cut_off(zoo, name):
    content = made(zoo, name).read_bytes()
    (zoo / f"half_{name}").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError):
        list(decode(zoo / f"half_{name}"))


@pytest.mark.parametrize(("number", "space"), [(8, "YCgCo"), (10, "BT.2020 constant luminance"), (14, "ICtCp")])
def test_colours_that_cannot_be_converted_are_named_with_a_way_out(zoo, number, space):
    made(zoo, "plain.mp4")
    ffmpeg(
        "-i",
        str(zoo / "plain.mp4"),
        "-c",
        "copy",
        "-bsf:v",
        f"h264_metadata=matrix_coefficients={number}",
        str(zoo / "odd.mp4"),
    )
    with pytest.raises(
        VideoError, match=f"{space}\\) cannot be converted to RGB .*: ffmpeg -i IN -vf zscale=matrix=709"
    ):
        list(decode(zoo / "odd.mp4"))
