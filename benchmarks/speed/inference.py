"""Inference on the CPU: seconds a video, peak memory, what it does to the scores; plain, ours, and other programs.

    python benchmarks/speed/inference.py          # a network and videos of the default dataset's size: some minutes
    python benchmarks/speed/inference.py --full   # at full size too: an hour
    python benchmarks/speed/inference.py --tasks 3 5    # those alone; the rest of the table stays
    python benchmarks/speed/inference.py --scores       # how far scores differ, alone

Each figure comes from a process of its own, in turns, so that a slow minute of the machine meets all. `plain` is
the network as it is trained; `lowered` the one that `lowered.for_inference` makes of it, given every view by itself;
`shared` the same, given the video's distinct frames, as the pipeline does; `compiled` the plain one by torch.compile.
Each in the arithmetics of params.yaml, `half` where the processor has bfloat16. ONNX Runtime and OpenVINO compute the
network as `r2plus1d export` writes it, given every view by itself, on as many threads, from an environment that is made
at the first run. Then the views of all validation videos, and of real clips where a folder of them is given, by the
trained rows that are there: in `exact`, and in `half`; on a processor with AVX-512 but no bfloat16 by oneDNN's slow
imitation of it, on others by torch.autocast.

Writes benchmarks/results/inference.json and .md, and the first table in docs/results.md; on a processor without
bfloat16 inference_without_bfloat16.json and .md, and the second table; on one without AVX-512, such as those of most
laptops, inference_without_avx512.json and .md, and the third.
"""

import argparse
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the project's root

from benchmarks.common import RESULTS, BenchmarkError, answer, call, command_line, ours, publish, turns
from benchmarks.speed import peers
from r2plus1d.config.schema import Runtime, TestedRow
from r2plus1d.results.markdown import markdown_table
from r2plus1d.system import paths
from r2plus1d.system.arithmetic import Arithmetic, has_bfloat16
from r2plus1d.system.files import read_json
from r2plus1d.system.machine import cores, flags
from r2plus1d.system.stage import run

WAYS = {  # arithmetic and variant
    "exact": ("plain", "lowered", "shared"),
    "native": ("plain", "compiled", "lowered", "shared"),
    "half": ("lowered", "shared"),
}
AGAINST = {"exact": (), "native": ("ONNX Runtime", "OpenVINO float32"), "half": ("OpenVINO default",)}
FRAMES = 300  # of the video, ten seconds as in Kinetics
SCALED, FULL = (10, 8, 64, 86), (34, 64, 256, 340)  # depth, width, height and width of the frames
TASKS = [{"size": SCALED, "clip": clip, "crops": 3} for clip in ((8, 8), (32, 2))]
FULL_TASKS = [{"size": FULL, "clip": clip, "crops": crops} for clip, crops in (((8, 8), 1), ((8, 8), 3), ((32, 2), 1))]
ALL = TASKS + FULL_TASKS
ROUNDS = {SCALED: 3, FULL: 2}
WARM_UP, TIMED = 2, 2  # in each process: the memory of the first two times is new to it


def main() -> None:
    parser = command_line(__doc__)
    peers.ask(parser)
    parser.add_argument("--full", action="store_true", help="at full size too")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="real clips, for the trained rows to look at too")
    help_ = "measure these alone, counted from 1: 1 and 2 are the small network's, 3 to 5 those at full size"
    parser.add_argument("--tasks", type=int, nargs="+", choices=range(1, len(ALL) + 1), metavar="N", help=help_)
    help_ = "compare the scores of the trained rows alone; the times stay"
    parser.add_argument("--scores", action="store_true", help=help_)
    help_ = "of each row, whose scores are compared, one of every so many (default: all)"
    parser.add_argument("--score-videos", type=int, metavar="N", help=help_)
    parser.add_argument("--without", nargs="+", default=[], metavar="WAY", help="such as 'exact plain': not measured")
    help_ = "ways that are not measured at full size"
    parser.add_argument("--full-without", nargs="+", default=[], metavar="WAY", help=help_)
    parser.add_argument("--rounds", type=int, metavar="N", help="turns, instead of 3, and 2 at full size")
    options = parser.parse_args()
    if options.tasks and (options.full or options.videos or options.score_videos or options.scores):
        parser.error("--tasks measures times alone: it goes without --full, --scores, --videos and --score-videos")
    if options.scores and (options.full or options.rounds or options.without or options.full_without):
        parser.error("--scores measures no times: it goes without --full, --rounds, --without and --full-without")
    if options.videos and not options.videos.is_dir():
        parser.error(f"--videos {options.videos}: no folder")
    if options.scores and not trained_rows():
        raise BenchmarkError("no row of the default dataset is trained here: run `make repro` first")
    name = name_here()
    figures = before(name) if options.tasks or options.scores else {"timings": [], "scores": []}
    if options.tasks:
        tasks = [ALL[n - 1] for n in options.tasks]
    else:
        tasks = [] if options.scores else ALL if options.full else TASKS
    python = peers.ready(options, sys.executable) if tasks else ""
    began = f"{datetime.now():%Y-%m-%d %H:%M}"
    for task in tasks:
        ways = compared(task, options, python, began)
        figures["timings"] = merged(figures["timings"], task | {"ways": ways})
        print(table(figures), flush=True)
    if options.tasks:
        publish(name, figures, table(figures))
        return
    # Not before: a process's peak memory counts from that of the one which started it.
    videos = str(options.videos.absolute()) if options.videos else None
    scores = {(one["row"], one["arithmetic"], one["real"]): one for one in figures["scores"]}
    for row, kind, folder in itertools.product(
        trained_rows(), ("exact", "half"), (None, *([videos] if videos else []))
    ):
        task = {"arithmetic": kind, "row": row, "videos": folder, "most": options.score_videos}
        scores[row, kind, folder is not None] = call(task, __file__)
        figures["scores"] = list(scores.values())
        publish(name, figures, table(figures))  # what is compared stays, whatever comes
    publish(name, figures, table(figures))


def name_here() -> str:
    """Of the results of processors like this one."""
    if has_bfloat16():
        return "inference"
    return "inference_without_bfloat16" if "avx512f" in flags() else "inference_without_avx512"


def before(name: str) -> dict:
    """The results that are there. Raises BenchmarkError where there are none."""
    if not (found := read_json(RESULTS / f"{name}.json")):
        raise BenchmarkError(f"there is no benchmarks/results/{name}.json yet: run without --tasks and --scores")
    return found


def merged(timings: list[dict], new: dict) -> list[dict]:
    """With the ways of a task that were measured now in the place of those that were there, in the table's order."""

    def key(task: dict) -> str:
        return json.dumps([task[name] for name in ("size", "clip", "crops")])

    entries = {key(one): one for one in timings}
    ways = entries.get(key(new), new)["ways"] | new["ways"]
    order = [f"{kind} {variant}" for kind, variants in WAYS.items() for variant in variants]
    order += itertools.chain(*AGAINST.values())
    entries[key(new)] = new | {"ways": {way: ways[way] for way in order if way in ways}}
    return [entries[key(task)] for task in ALL if key(task) in entries]


def compared(task: dict, options: argparse.Namespace, python: str, began: str) -> dict[str, dict]:
    """The figures of all ways, in turns; of the scores how far they are from the plain network's."""
    rounds = options.rounds or ROUNDS[task["size"]]
    kinds = [kind for kind in WAYS if kind != "half" or has_bfloat16()]
    own = [f"{kind} {variant}" for kind in kinds for variant in WAYS[kind]]
    without = {*options.without, *(options.full_without if task["size"] == FULL else [])}
    ways = [way for way in (*own, *itertools.chain(*(AGAINST[kind] for kind in kinds))) if way not in without]
    with tempfile.TemporaryDirectory() as folder:
        exported = ours("exact export", task | {"folder": folder}, __file__)

        def measured(way: str) -> dict:
            if way in peers.PEERS:
                return peers.measured(python, way, Path(folder), cores())
            return ours(way, task, __file__)

        figures = turns(ways, measured, rounds)
    for one in figures.values():
        one["difference"] = float(np.abs(np.subtract(one.pop("scores"), exported["scores"])).max())
        one |= {"turns": rounds, "run": began}
    return figures


def measure(
    arithmetic: Arithmetic,
    variant: str,
    size: list[int],
    clip: tuple[int, int],
    crops: int,
    folder: str | None = None,
) -> dict:
    """Of this process: the seconds of a video's ten clips of each crop, and the averaged scores; or, of `export`, these
    of the plain network, with model.onnx and clips.npy in the folder."""
    import torch  # noqa: PLC0415 (not in the process that starts this one)

    from r2plus1d.clips.sampling import test_indices  # noqa: PLC0415
    from r2plus1d.model.lowered import for_inference  # noqa: PLC0415
    from r2plus1d.model.network import build  # noqa: PLC0415
    from r2plus1d.system.device import describe, peak_memory_mib, prepare, seed_everything  # noqa: PLC0415
    from r2plus1d.video.views import three_crop_boxes, to_input  # noqa: PLC0415
    from r2plus1d.zoo.export import export  # noqa: PLC0415

    depth, width, h, w = size
    cpu = prepare(Runtime(device="cpu", gpus=1, threads=cores(), lowered=True, arithmetic=arithmetic))
    seed_everything(0)
    model = build(depth=depth, width=width).eval()
    distinct, places = np.unique(test_indices(FRAMES, *clip, 10), return_inverse=True)
    video = torch.randint(0, 256, (len(distinct), h, w, 3), dtype=torch.uint8)
    frames = torch.cat([video[:, y0:y1, x0:x1] for x0, y0, x1, y1 in three_crop_boxes(h, w, h)[-crops:]])
    indices = torch.cat([torch.from_numpy(places.reshape(10, -1)) + crop * len(distinct) for crop in range(crops)])
    if folder is not None:
        views = frames[indices]
        export(model, "onnx", Path(folder, "model.onnx"), views[:2].numpy())
        np.save(Path(folder, "clips.npy"), views.numpy())
        with torch.inference_mode():  # few at a time, for memory
            return {"scores": torch.cat([model(to_input(v, cpu)) for v in views.split(2)]).softmax(1).mean(0).tolist()}

    def of_views(network: Callable[[torch.Tensor], torch.Tensor], views: torch.Tensor) -> torch.Tensor:
        return network(to_input(views, cpu))

    if variant == "shared":
        forward = functools.partial(for_inference(model, cpu, True, arithmetic).from_frames, frames, indices)
    elif variant == "lowered":
        forward = functools.partial(of_views, for_inference(model, cpu, True, arithmetic), frames[indices])
    else:
        forward = functools.partial(of_views, torch.compile(model) if variant == "compiled" else model, frames[indices])
    seconds = []
    for _ in range(WARM_UP + TIMED):
        began = time.perf_counter()
        with torch.inference_mode():
            logits = forward()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "memory_mib": peak_memory_mib(cpu),
        "machine": describe(cpu),
        "scores": logits.softmax(1).mean(0).tolist(),
    }


def trained_rows() -> list[str]:
    """Those of the default dataset that `make repro` trained."""
    names = [path.parent.name for path in sorted(paths.CONFIGS.glob("*/test.json"))]
    return [name for name in names if paths.weights(name).is_file()]


def agreement(
    row: str, arithmetic: Arithmetic | None = None, videos: str | None = None, most: int | None = None
) -> dict:
    """The trained network's views of the validation videos, or of those in a folder, by the plain network and as the
    pipeline computes them, in the row's arithmetic or another; of `most` videos, evenly spread."""
    import torch  # noqa: PLC0415

    from r2plus1d.model import checkpoint  # noqa: PLC0415
    from r2plus1d.model.lowered import Plain, for_inference  # noqa: PLC0415
    from r2plus1d.system.device import describe, prepare  # noqa: PLC0415
    from r2plus1d.zoo import accuracy, evaluation  # noqa: PLC0415
    from r2plus1d.zoo.rows import open_row  # noqa: PLC0415

    opened = open_row(row, TestedRow)
    runtime, average = opened.config.runtime, opened.config.test.average_clips
    device = prepare(runtime)
    model = checkpoint.restore(paths.weights(row))
    kind = arithmetic or runtime.arithmetic
    able = device.type == "cuda" or kind != "half" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    lowered = runtime.lowered if able else False
    models = Plain(model, model.family).to(device), for_inference(model, device, lowered, kind)
    same, differences = [], []
    for frames, views in shown(opened, model, videos, most):
        plain, fast = (evaluation.logits(network, frames, views, device).cpu().numpy() for network in models)
        same.append(plain.argmax(1) == fast.argmax(1))
        averaged = [accuracy.average_views(stack, average) for stack in (plain, fast)]
        differences.append(float(np.abs(averaged[0] - averaged[1]).max()))
    all_views = np.concatenate(same)
    counts = {"videos": len(same), "views": all_views.size, "same_top1": int(all_views.sum())}
    half_here = kind == "half" and device.type == "cpu"
    facts = {
        "row": row,
        "arithmetic": kind,
        "autocast": half_here and not lowered,
        "imitated": half_here and bool(lowered) and not has_bfloat16(),
        "real": videos is not None,
        "machine": describe(device),
    }
    return facts | counts | {"score": max(differences)}


def shown(row, model, videos: str | None, most: int | None) -> Iterator[tuple]:
    """Of each video its crops and the places of their frames in the views, as a network takes them."""
    import torch  # noqa: PLC0415

    from r2plus1d.clips.items import TestVideos  # noqa: PLC0415
    from r2plus1d.system.progress import progress  # noqa: PLC0415
    from r2plus1d.zoo.prediction import Looker  # noqa: PLC0415
    from r2plus1d.zoo.videos import find_videos  # noqa: PLC0415

    if videos is None:
        items = TestVideos(row.config, row.splits["val"], row.reader)
        numbers = range(len(items))[:: max(1, len(items) // (most or len(items)))]
        for number in progress(numbers, len(numbers), f"comparing {row.config.row}", "videos"):
            video = items[number]
            yield video.crops(row.config), video.places(row.config)
        return
    looker, files = Looker(model, torch.device("cpu")), find_videos([Path(videos)])
    files = files[:: max(1, len(files) // (most or len(files)))]
    for file in progress(files, len(files), f"comparing {row.config.row} on clips", "videos"):
        views = torch.from_numpy(looker.views(file))
        yield views.flatten(0, 1), torch.arange(views.shape[0] * views.shape[1]).view(views.shape[:2])


def table(figures: dict) -> str:
    columns = (
        "network", "views", "by", "seconds", "times exact plain", "times the other program", "memory (MiB)", "turns",
        "run",
    )  # fmt: skip
    rows = []
    for entry in figures["timings"]:
        (depth, width, h, _), (frames, interval), ways = entry["size"], entry["clip"], entry["ways"]
        head = f"{depth} layers, width {width}", f"{10 * entry['crops']} of {frames}x{interval}, {h} x {h}"
        for way, one in ways.items():
            same = {other: ways[other]["seconds"] for other in ways if ways[other]["run"] == one["run"]}
            base, others = same.get("exact plain"), [same[p] for p in AGAINST.get(way.split(" ")[0], ()) if p in same]
            cells = [
                f"{one['seconds']:.3g}",
                f"{base / one['seconds']:.2f}x" if base else "",
                f"{min(others) / one['seconds']:.2f}x" if others else "",
                str(round(one["memory_mib"])),
                str(one["turns"]),
                one["run"],
            ]
            rows.append([*head, way, *cells])
    text = f"{markdown_table(columns, rows)}\n\nOf a video of {FRAMES} frames; medians of the turns. "
    text += f"{measured_on(figures['timings'])} Ratios are of figures of the same run. "
    text += "The other program: of the same precision, the faster one. "
    halved = AGAINST["half"]
    kept = [
        one
        for entry in figures["timings"]
        for way, one in entry["ways"].items()
        if not way.startswith("half") and way not in halved
    ]
    text += (
        f"Averaged scores of float32 differ from the plain network's by {max(o['difference'] for o in kept):.1e} at "
    )
    text += "most."
    for kind, real in itertools.product(("exact", "half"), (False, True)):
        scores = [one for one in figures["scores"] if (one["arithmetic"], one["real"]) == (kind, real)]
        if scores:
            text += f" {agreed(scores, kind, real)}"
    return text


def measured_on(timings: list[dict]) -> str:
    """The machine, or where there are several each with its runs, and the versions of the other programs."""
    every = [item for entry in timings for item in entry["ways"].items()]
    runs: dict[str, dict[str, None]] = {}
    for _, one in every:
        if machine := one.get("machine"):
            text = f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}"
            runs.setdefault(text, {})[one["run"]] = None
    ours = [text if len(runs) == 1 else f"{' and '.join(of)}: {text}" for text, of in runs.items()]
    versions = [f"{way.removesuffix(' default')} {one['version']}" for way, one in every if "version" in one]
    return f"{'; '.join([*ours, *dict.fromkeys(versions)])}."


def agreed(scores: list[dict], kind: str, real: bool) -> str:
    views, same, videos = (sum(score[key] for score in scores) for key in ("views", "same_top1", "videos"))
    largest, on = max(score["score"] for score in scores), "real clips" if real else "validation videos"
    how = "autocast" if scores[0].get("autocast") else "oneDNN's imitation" if scores[0].get("imitated") else ""
    by = f" by {how} of bfloat16" if how else ""
    machines = dict.fromkeys(f"{one['machine']['device']}, torch {one['machine']['torch']}" for one in scores)
    return (
        f"{len(scores)} trained rows, {videos} {on}, {kind}{by}, on {' and '.join(machines)}: {same} of {views} views "
        f"({100 * same / views:.2f}%) with the plain network's top-1; averaged scores differ by {largest:.1e} at most."
    )


def asked(**task) -> dict:
    return agreement(**task) if "row" in task else measure(**task)


if __name__ == "__main__":
    answer(asked)
    run(main)
