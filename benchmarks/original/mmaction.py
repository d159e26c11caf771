"""R(2+1)D against the original, MMAction2 0.24.1: the same weights and the same videos through both, step by step.

    python benchmarks/original/mmaction.py [--videos FILE ...] [--rows ROW ...]

Makes an environment for the original at its first run (6 GB, some minutes, PyPI, Python 3.11). Then,
for every published row at full size on the CPU, compares the frames sampled, the decoded pixels, the 30 test views,
their logits, the averaged scores, and training views drawn from the same seeds. Four rows on three videos take 15
minutes on two idle cores, 5 GB of memory and 3 GB in TMPDIR.

Writes benchmarks/results/mmaction.json and .md, and the table in docs/results.md. The exit status is 1 if frames, boxes
or pixels differ, or logits by more than rounding explains.

Expect: the same frames, boxes, pixels and top-1, and logits equal to 1e-3 of their spread.

Weights are random (see `random_weights`); the comparison needs no published ones.

Shapes: D clips, V views, T frames, H x W pixels, K classes, S seeds; pixels are uint8 RGB.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import simplejpeg
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import ROOT, BenchmarkError, command_line, publish
from benchmarks.original import environment
from r2plus1d.clips import sampling
from r2plus1d.clips.items import Reader, TestVideos, training_clip
from r2plus1d.config import files, resolve, schema
from r2plus1d.datasets import annotations, encode, motion
from r2plus1d.model import checkpoint
from r2plus1d.model.lowered import TakesFrames, for_inference
from r2plus1d.model.network import OuterNorm, Recognizer, build
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import device
from r2plus1d.system.files import write_json, write_text
from r2plus1d.system.machine import cores
from r2plus1d.system.stage import run
from r2plus1d.video import decoding, reading, views
from r2plus1d.video.extraction import extract
from r2plus1d.video.groups import Listed, Machines
from r2plus1d.video.probe import probe
from r2plus1d.video.shards import FrameReader
from r2plus1d.video.views import to_input
from r2plus1d.zoo import accuracy, evaluation

SEED = 0
TRAINING_SEEDS = tuple(range(8))
VIEWS_AT_ONCE = 2
# Of the logits' standard deviation: what the networks may differ by. On four views, float32 was 5e-5
# from float64, with batch norms folded and without; the largest of 36,000 logits was 2e-4 apart.
ROUNDING = 1e-3
CALIBRATION = 6  # clips that the random network is fitted to
SPREAD = 3.0  # standard deviation of its logits on them
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inputs:
    """The videos as both sides read them, in one folder: videos/ (links), frames/<short side>p/ (packed), loose/ (the
    same JPEG files, unpacked), and the annotation lists frames.txt and video.txt."""

    folder: Path
    samples: list[annotations.Sample]
    described: list[dict]  # name, width, height and frames of each video

    def reader(self, row: schema.RowConfig) -> Reader:
        if row.clip.input == "frames":
            return FrameReader(self.folder / "frames" / row.resolution)
        return reading.VideoReader(self.folder / "videos")


class _SeededTwice:
    """The original's two random streams, numpy's and Python's, behind the interface of one generator.

    The original draws frames, shares and flips from numpy's, and the place of a crop from Python's; both sides draw in
    the same order.
    """

    def __init__(self, seed: int):
        self.numpy, self.python = np.random.RandomState(seed), random.Random(seed)

    def integers(self, low: int, high: int | None = None, size: int | None = None):
        if size is None:
            assert high is not None
            return self.python.randint(low, high - 1)
        return self.numpy.randint(low, high, size=size)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return self.numpy.uniform(low, high, size=size)

    def random(self) -> float:
        return self.numpy.rand()


def seeded_twice(seed: int) -> np.random.Generator:
    """What has of a Generator's methods those that a training's views draw with."""
    return cast(np.random.Generator, _SeededTwice(seed))


class Recorder:
    """A reader that remembers what it was last asked for, and gave."""

    def __init__(self, reader: Reader):
        self.reader = reader

    def read(self, path: str, indices: np.ndarray, count: int) -> np.ndarray:
        self.indices, self.frames = indices, self.reader.read(path, indices, count)
        return self.frames


# ---- Inputs ----


def generated(folder: Path) -> list[Path]:
    """Three videos of the project's own dataset, 342 x 256."""
    files = []
    for label in (0, 5, 11):
        files.append(folder / f"{motion.CLASSES[label]}.mp4")
        encode.write_h264(files[-1], motion.render(SEED, 0, label, 0, 256), motion.FPS)
    return files


def gather(files: list[Path], folder: Path, short_sides: dict[str, int]) -> Inputs:
    """Packs the videos' frames once, with the project's extraction, and unpacks the same JPEG files next to them."""
    names = [f"{number:04d}{file.suffix}" for number, file in enumerate(files)]  # the original's lists bear no blanks
    (folder / "videos").mkdir()
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise BenchmarkError(f"{file}: no such video")
        (folder / "videos" / name).symlink_to(file.resolve())
    listed, alone = [Listed(name) for name in names], Machines(workers=0)
    readable, _, unreadable = probe(folder / "videos", listed, folder / "looking", alone)
    if unreadable:
        raise BenchmarkError(f"{files[names.index(unreadable[0].path)]}: {unreadable[0].reason}")
    counts = {video.path: video.frames for video in readable}
    for side, pixels in short_sides.items():
        extract(folder / "videos", listed, counts, pixels, folder / "work", folder / "frames" / side, alone)
    for shard in sorted((folder / "frames").glob("*/shard-*.tar")):
        with tarfile.open(shard) as tar:
            tar.extractall(folder / "loose" / shard.parent.name, filter="data")
    samples = [annotations.Sample(name, counts[name], 0) for name in names]
    write_text(folder / "frames.txt", annotations.format_frames(samples))
    write_text(folder / "video.txt", annotations.format_videos(samples))
    first = [next(frame for frame in decoding.decode(folder / "videos" / name) if frame is not None) for name in names]
    described = [
        {"name": file.name, "width": image.shape[1], "height": image.shape[0], "frames": sample.num_frames}
        for file, image, sample in zip(files, first, samples, strict=True)
    ]
    return Inputs(folder, samples, described)


def random_weights(row: schema.RowConfig, inputs: Inputs, path: Path) -> Recognizer:
    """The full-size network with random weights, written to `path` in the original's format and read back.

    Batch norms have random scales and shifts, and the statistics of some clips of the videos, as long as the row's. The
    last layer leaves out what the features of those clips have in common, so that views score apart: a wrong order of
    views would show.
    """
    torch.manual_seed(SEED)
    model = build(row.model.depth, 400, row.model.width, row.model.conv, row.train.dropout)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d | OuterNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0  # the statistics become those of the next batch
    reader = inputs.reader(row)
    samples = [inputs.samples[n % len(inputs.samples)] for n in range(CALIBRATION)]
    clips = [training_clip(row, sample, reader, np.random.default_rng([SEED, n])) for n, sample in enumerate(samples)]
    x = to_input(torch.from_numpy(np.stack(clips)), CPU)
    last = model.cls_head.fc_cls
    with torch.no_grad():
        model.train()(x)
        features = model.eval().backbone(x).mean((2, 3, 4))
        nn.init.normal_(last.weight)
        last.weight *= SPREAD / ((features - features.mean(0)) @ last.weight.T).std()
        last.bias.copy_(-(last.weight @ features.mean(0)))
    checkpoint.export_mmaction(model, path)
    model.load_state_dict(checkpoint.load(path))
    return model


# ---- The two sides ----


def ours(row: schema.TestedRow, inputs: Inputs, number: int, model: TakesFrames) -> dict[str, np.ndarray]:
    """What `theirs/views.py` writes for a video, from our side; its functions say the shapes."""
    sample, reader = inputs.samples[number], Recorder(inputs.reader(row))
    item = TestVideos(row, [sample], reader)[0]
    indices = reader.indices[item.indices.numpy()]
    crops, places = item.crops(row), item.places(row)
    logits = torch.cat([evaluation.logits(model, crops, part, CPU) for part in places.split(VIEWS_AT_ONCE)])
    arrays = {
        "indices": indices,
        "decoded": reader.frames[item.indices.numpy().ravel()],
        "pixels": crops[places].numpy(),
        "logits": logits.numpy(),
        "scores": accuracy.average_views(logits.numpy(), row.test.average_clips),
    }
    drawn = [_training_view(row, sample, reader, seed) for seed in TRAINING_SEEDS]
    names = ("train_indices", "train_boxes", "train_flips", "train_pixels")
    return arrays | {name: np.stack(values) for name, values in zip(names, zip(*drawn, strict=True), strict=True)}


def _training_view(row: schema.RowConfig, sample: annotations.Sample, reader: Recorder, seed: int) -> tuple:
    """(indices [T], box [4], flipped, pixels [T, H, W, 3]); box and flip are drawn once more, from the same seed."""
    pixels = training_clip(row, sample, reader, seeded_twice(seed))
    again, train = seeded_twice(seed), row.train
    sampling.train_indices(sample.num_frames, row.clip.frames, row.clip.frame_interval, rng=again)
    height, width = reader.frames.shape[1:3]
    size = views.short_side_size(height, width, train.resize)
    box = views.random_resized_crop_box(*size, again, tuple(train.crop_area), tuple(train.crop_ratio))
    return reader.indices, np.array(box), again.random() < train.flip, np.asarray(pixels)


def theirs(row: schema.RowConfig, inputs: Inputs, python: Path, folder: Path) -> dict:
    """Runs the original on the row's videos and returns its versions."""
    frames = row.clip.input == "frames"
    job = {
        "config": re.sub("_[0-9]+p$", "", row.row),  # 256p and 320p share a configuration
        "list": str(inputs.folder / f"{row.clip.input}.txt"),
        "prefix": str(inputs.folder / "loose" / row.resolution if frames else inputs.folder / "videos"),
        "weights": str(inputs.folder / "weights.pth"),
        "versions": str(inputs.folder / "versions.json"),
        "videos": len(inputs.samples),
        "seeds": TRAINING_SEEDS,
        "theirs": str(folder / "theirs"),
    }
    write_json(folder / "job.json", job)
    command = [str(python), "-W", "ignore", str(environment.THEIRS / "views.py"), str(folder / "job.json")]
    with open(folder / "original.log", "w+") as log:
        if subprocess.run(command, stderr=log, env=environment.their_variables(), check=False).returncode:
            log.seek(0)
            raise BenchmarkError(f"the original failed on {row.row}:\n{log.read()[-3000:]}")
    return json.loads((inputs.folder / "versions.json").read_text())


# ---- The comparison ----


def compare(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict:
    """One video of one row: `a` are our arrays, `b` the original's. Differences of logits also as a share of their
    standard deviation over views and classes; those of pixels in grey levels."""
    spread, apart = float(b["logits"].std()), np.abs(a["logits"] - b["logits"])
    pixels, pixel_share = difference(a["pixels"], b["pixels"])
    train_pixels, train_pixel_share = difference(a["train_pixels"], b["train_pixels"])
    equal = ("indices", "train_indices", "train_boxes", "train_flips")
    return {
        **{f"{key}_equal": np.array_equal(a[key], b[key]) for key in equal},
        "decoded": difference(a["decoded"], b["decoded"])[0],
        "pixels": pixels,
        "pixel_share": pixel_share,
        "train_pixels": train_pixels,
        "train_pixel_share": train_pixel_share,
        "logit_spread": spread,
        "logits": float(apart.max()),
        "logits_relative": float(apart.max()) / spread,
        "logits_rms_relative": float(np.sqrt((apart**2).mean())) / spread,
        "views": len(b["logits"]),
        "scores": float(np.abs(a["scores"] - b["scores"]).max()),
        "highest_score": float(b["scores"].max()),
        "same_top1": int(a["scores"].argmax()) == int(b["scores"].argmax()),
    }


def difference(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    """(largest difference in grey levels, share of the values that differ) of uint8 arrays."""
    if a.shape != b.shape:
        raise BenchmarkError(f"our pixels are {a.shape}, the original's {b.shape}")
    apart = np.maximum(a, b) - np.minimum(a, b)
    return int(apart.max()), float((apart > 0).mean())


def worst(figures: list[dict]) -> dict:
    """Over the videos of a row: False before True, the largest of the numbers (the smallest `logit_spread`)."""
    merged = {}
    for key in figures[0]:
        values = [video[key] for video in figures]
        merged[key] = all(values) if isinstance(values[0], bool) else (min if key == "logit_spread" else max)(values)
    return merged


def failures(row: str, found: dict) -> list[str]:
    """What must not differ, and does."""
    wrong = [key.removesuffix("_equal") for key in found if key.endswith("_equal") and not found[key]]
    pixels = ("decoded", "pixels", "train_pixels")
    wrong += [f"{key.replace('_', ' ')} (by {found[key]})" for key in pixels if found[key]]
    if not found["logits_relative"] <= ROUNDING:
        wrong.append(f"logits (by {found['logits_relative']:.1e} of their spread)")
    return [f"{row}: different {what}" for what in wrong]


def compare_row(row: schema.TestedRow, inputs: Inputs, python: Path) -> tuple[dict, dict]:
    """(figures of the row with those of each video, versions of the original)"""
    count = len(inputs.samples)
    model = for_inference(random_weights(row, inputs, inputs.folder / "weights.pth"), CPU)
    with tempfile.TemporaryDirectory(prefix="row-", dir=inputs.folder) as name:
        folder = Path(name)
        for side in ("ours", "theirs"):
            (folder / side).mkdir()
        for number in range(count):
            start = time.monotonic()
            arrays: dict[str, Any] = ours(row, inputs, number, model)
            np.savez(folder / "ours" / f"{number}.npz", **arrays)
            print(f"  ours:     video {number + 1} of {count}: {time.monotonic() - start:.0f} s", flush=True)
        original = theirs(row, inputs, python, folder)
        both = [[np.load(folder / side / f"{number}.npz") for side in ("ours", "theirs")] for number in range(count)]
        figures = [compare(*sides) for sides in both]
    named = [{"video": about["name"], **found} for about, found in zip(inputs.described, figures, strict=True)]
    return {**worst(figures), "videos": named}, original


# ---- The report ----


COLUMNS = {
    "row": "{row}",
    "frames equal": "{indices_equal}",
    "decoded pixels": "{decoded}",
    "view pixels": "{pixels} ({pixel_share:.1%})",
    "logits": "{logits:.1e} ({logits_relative:.1e}, rms {logits_rms_relative:.1e})",
    "averaged scores": "{scores:.1e} of {highest_score:.2f}",
    "same top-1": "{same_top1}",
    "training: frames, boxes, flips equal": "{train_equal}",
    "training: pixels": "{train_pixels} ({train_pixel_share:.1%})",
}
EXPLANATION = """\
Largest differences over the videos. Pixels: grey levels of 0-255, with the largest share of values that differ at all.
Logits: also as a share of their standard deviation over views and classes. Scores: the mean of the softmax over the 30
views, next to the highest one. Training views: {seeds} for each video, from the same seeds.

What remains is the rounding of sums in another order (batch norms folded, convolutions in tiles, other instructions).
The weights are random, and the last layer leaves out what the clips' features have in common: the spread counts only
what tells clips apart."""


def report(result: dict) -> str:
    """Markdown."""
    cells = []
    for name, found in result["rows"].items():
        train_equal = all(found[f"train_{key}_equal"] for key in ("indices", "boxes", "flips"))
        values = {key: yes_no(value) for key, value in {**found, "row": name, "train_equal": train_equal}.items()}
        cells.append([form.format(**values) for form in COLUMNS.values()])
    table = markdown_table(list(COLUMNS), cells)
    about = [
        f"- {side}: " + ", ".join(f"{key} {value}" for key, value in result["versions"][side].items())
        for side in ("ours", "original")
    ]
    videos = [f"{v['name']} ({v['width']}x{v['height']}, {v['frames']} frames)" for v in result["videos"]]
    setting = f"- {result['device']}, {result['threads']} threads; {', '.join(videos)}; {result['minutes']} minutes"
    return "\n".join([*about, setting, "", table, "", EXPLANATION.format(seeds=len(TRAINING_SEEDS))])


def yes_no(value):
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def our_versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "jpeg decoder": f"simplejpeg {simplejpeg.__version__}",
        "video decoder": f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}",
    }


def published_rows(wanted: list[str] | None) -> tuple[dict[str, int], list[schema.BenchmarkedRow]]:
    """(short sides by folder, the rows asked for) as on Kinetics-400."""
    params = files.read_params(ROOT / "params.yaml")
    params["dataset"] = "kinetics400"
    rows = {row.row: row for row in resolve.resolve(params).rows if row.row != schema.CUSTOM}
    for name in wanted or ():
        if name not in rows:
            raise BenchmarkError(f"no row {name!r}; there are {', '.join(rows)}")
    short_sides = {row.resolution: row.clip.short_side for row in rows.values() if row.clip.input == "frames"}
    return short_sides, [row for name, row in rows.items() if name in (wanted or rows)]


def arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--videos", nargs="+", type=Path, metavar="FILE", help="videos; default: three generated ones")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="rows of params.yaml; default: the published four")
    environment.ask(parser)
    help_ = "where the results go; default: benchmarks/results and docs/results.md"
    parser.add_argument("--out", type=Path, metavar="DIR", help=help_)
    return parser.parse_args()


def main() -> None:
    options, start = arguments(), time.monotonic()
    short_sides, rows = published_rows(options.rows)
    python = environment.ready(options)
    with tempfile.TemporaryDirectory(prefix="mmaction-") as name:
        folder = Path(name)
        inputs = gather(options.videos or generated(folder), folder, short_sides)
        # The extraction left one thread.
        device.prepare(schema.Runtime(device="cpu", gpus=1, threads=cores(), lowered=True, arithmetic="exact"))
        found = {}
        for row in rows:
            print(row.row, flush=True)
            found[row.row], original = compare_row(row, inputs, python)
    setting = {key: device.describe(CPU)[key] for key in ("device", "threads")}
    versions = {"ours": our_versions(), "original": original}
    minutes = round((time.monotonic() - start) / 60)
    result = {"versions": versions, **setting, "minutes": minutes, "videos": inputs.described, "rows": found}
    print(report(result))
    if options.out:
        write_json(options.out / "mmaction.json", result)
        write_text(options.out / "mmaction.md", report(result) + "\n")
    else:
        publish("mmaction", result, report(result))
    if wrong := [line for row, figures in found.items() for line in failures(row, figures)]:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    run(main)
