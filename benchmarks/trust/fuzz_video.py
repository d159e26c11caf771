"""Damaged videos through the bounded decoder: small files of many containers and codecs, their bytes changed at random.

    python benchmarks/trust/fuzz_video.py [INPUTS]

The inputs depend on their numbers alone. Counts what is decoded, what is set aside and why, what crashes the decoder or
exceeds a limit, and whether the process that asks ever fails. Every hundredth is decoded twice and must end the same.
About 4 ms an input.

Writes benchmarks/results/fuzz_video.json and .md, and the table in docs/results.md; exits with 1 after a failure.
"""

import hashlib
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import command_line, publish
from r2plus1d.results.markdown import markdown_table
from r2plus1d.video import sandbox
from r2plus1d.video.decoding import VideoError

SEEDS = (  # container, codec, pixel format
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "libx265", "yuv420p"),
    ("mp4", "libsvtav1", "yuv420p"),
    ("mov", "png", "rgba"),
    ("mkv", "mpeg4", "yuv420p"),
    ("mkv", "ffv1", "yuv444p10le"),
    ("webm", "libvpx", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("avi", "msmpeg4v2", "yuv420p"),
    ("ts", "libx264", "yuv420p"),
    ("ts", "mpeg2video", "yuv420p"),
    ("mpg", "mpeg1video", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("wmv", "wmv2", "yuv420p"),
    ("mxf", "mpeg2video", "yuv420p"),
    ("ogv", "libvpx", "yuv420p"),
)
LOST = ("the decoder crashed", "the decoder hangs", "decoding it takes")
TELLING = (0, 1, 0x7F, 0x80, 0xFF)  # bytes at which sizes and signs turn


def main(inputs: int) -> int:
    ends: Counter[str] = Counter()
    kinds: dict[tuple[str, str], Counter[str]] = {seed[:2]: Counter() for seed in SEEDS}
    lost, failures = [], []
    peak, processes = 0, set()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "video")
        seeds = [seed_file(Path(folder), *seed) for seed in SEEDS]
        for number in range(inputs):
            kind = number % len(SEEDS)
            data = damaged(np.random.default_rng(number), seeds[kind], seeds)
            path.write_bytes(data)
            try:
                end = outcome(path)
                if number % 100 == 0 and outcome(path) != end:
                    raise RuntimeError("another end the second time")
            except Exception as error:
                failures.append(f"input {number}: {type(error).__name__}: {error}")
                continue
            if end.startswith(LOST):
                lost.append(f"input {number} ({SEEDS[kind][0]}, {SEEDS[kind][1]}): {end}")
            decoded = end.startswith("frames ")
            ends["decoded" if decoded else re.sub(r"[0-9,]*[0-9]", "N", end)] += 1
            kinds[SEEDS[kind][:2]]["decoded" if decoded else "lost" if end.startswith(LOST) else "set aside"] += 1
            processes.add(sandbox._own.process._popen.pid)
            if number % 100 == 0 or number == inputs - 1:
                peak = max(peak, peak_mib())
                print(
                    f"\r{number + 1} of {inputs}, {len(lost)} lost, {len(failures)} failures", end="", file=sys.stderr
                )
    figures = {
        "inputs": inputs,
        "decoded": ends.pop("decoded", 0),
        "set_aside": dict(ends.most_common()),
        "crashes_and_limits": lost,
        "failures": failures,
        "decoder_processes": len(processes),
        "decoder_peak_mib": peak,
        "kinds": {f"{container} {codec}": dict(count) for (container, codec), count in kinds.items()},
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
    }
    publish("fuzz_video", figures, report(figures))
    return bool(failures)


def seed_file(folder: Path, container: str, codec: str, pixels: str) -> bytes:
    """A video of 12 frames with a moving square."""
    path = folder / f"seed.{container}"
    with av.open(str(path), "w", format="ogg" if container == "ogv" else None) as target:
        stream = target.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        stream.codec_context.thread_count = 1
        for number in range(12):
            image = np.full((48, 64, 3), 90, np.uint8)
            image[number : number + 20, 2 * number : 2 * number + 20] = (200, 40, 120)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)))
        target.mux(stream.encode(None))
    return path.read_bytes()


def damaged(rng: np.random.Generator, whole: bytes, others: list[bytes]) -> bytes:
    """One to a dozen changes, half of them among the first and last bytes, where the headers stand."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 13))):
        if len(data) < 16:
            break
        place = int(rng.integers(len(data)))
        if rng.random() < 0.5:
            place = place % 1024 if rng.random() < 0.5 else max(0, len(data) - 1 - place % 1024)
            place = min(place, len(data) - 1)
        size = int(rng.integers(1, 64))
        change = int(rng.integers(7))
        if change == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif change == 1:
            data[place] = TELLING[rng.integers(len(TELLING))]
        elif change == 2:
            data[place : place + 4] = bytes([TELLING[rng.integers(len(TELLING))]]) * 4
        elif change == 3:
            data[place : place + size] = rng.bytes(size)
        elif change == 4:
            del data[place : place + size]
        elif change == 5:
            data[place:place] = data[place : place + size]
        elif rng.random() < 0.2:
            other = others[rng.integers(len(others))]
            data[place:] = other[min(place, len(other) // 2) :]
        elif rng.random() < 0.2:
            del data[place:]
    return bytes(data)


def outcome(path: Path) -> str:
    """`frames` with their digest, or why the video is set aside."""
    digest, count = hashlib.sha256(), 0
    try:
        for image in sandbox.decode(path):
            digest.update(repr(image.shape).encode())
            digest.update(image.data)
            count += 1
    except VideoError as error:
        return str(error)
    return f"frames {count} {digest.hexdigest()}"


def peak_mib() -> int:
    """Resident memory of the decoder's process at its highest."""
    status = Path(f"/proc/{sandbox._own.process._popen.pid}/status").read_text(encoding="utf-8")
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", status)
    return int(peak) // 1024


def report(figures: dict) -> str:
    rows = [
        (kind, *(f"{count.get(end, 0):,}" for end in ("decoded", "set aside", "lost")))
        for kind, count in figures["kinds"].items()
    ]
    table = markdown_table(("container, codec", "decoded", "set aside", "decoder crashed or at a limit"), rows)
    aside, lost = sum(figures["set_aside"].values()), len(figures["crashes_and_limits"])
    return (
        f"{figures['inputs']:,} damaged videos: {figures['decoded']:,} decoded, {aside - lost:,} set aside for what is "
        f"wrong with them, {lost:,} for a crash of the decoder or a limit; the process that asks failed "
        f"{len(figures['failures']):,} times. Peak memory of the decoder: {figures['decoder_peak_mib']:,} MiB.\n\n"
        f"{table}"
    )


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("inputs", nargs="?", type=int, default=150_000, metavar="INPUTS")
    sys.exit(main(parser.parse_args().inputs))
