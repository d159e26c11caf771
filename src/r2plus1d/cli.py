"""The console command `r2plus1d`, also `python -m r2plus1d`. Each command imports what it needs, so --help is quick."""

# ruff: noqa: PLC0415

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from r2plus1d import __version__
from r2plus1d.system.errors import ConfigError
from r2plus1d.system.stage import run

ENDINGS = {"onnx": (".onnx",), "pt2": (".pt2",), "torchscript": (".ts", ".pt", ".torchscript")}  # of exported files


def main() -> None:
    parser = argparse.ArgumentParser(prog="r2plus1d", description="R(2+1)D: commands that go with the pipeline")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_finetune,
        _add_seeds,
        _add_predict,
        _add_features,
        _add_export,
        _add_browse,
        _add_show,
        _add_verify,
        _add_published,
        _add_profile,
        _add_compare,
        _add_compare_log,
    ):
        add(commands)
    arguments = parser.parse_args()
    run(lambda: arguments.call(arguments), goes_on=arguments.call in (_finetune, _seeds))


def _add_finetune(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "finetune",
        help="a model for your own labelled videos",
        description="Trains, tests and benchmarks the row `custom` on a folder of videos, and no other row: sets "
        "params.yaml and runs DVC. The same command again does nothing, or goes on where it was interrupted.",
    )
    command.add_argument(
        "videos", type=Path, metavar="VIDEOS", help="one sub-folder per class; or train/, and val/ or test/"
    )
    command.add_argument(
        "--init",
        default="torchvision",
        metavar="NAME",
        help="weights to start from: torchvision, torchvision:r3d_18, torchvision:mc3_18, published, published_1x, "
        "ig65m_8, ig65m_32, ig65m_8_kinetics, ig65m_32_kinetics, the path or https address of a file, row:custom (what "
        "the row was trained to before), or none (default: %(default)s)",
    )
    command.add_argument(
        "-S", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="as for dvc exp run"
    )
    command.set_defaults(call=_finetune)


def _finetune(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import tried
    from r2plus1d.zoo import finetune

    finetune.finetune(arguments.videos, arguments.init, arguments.settings)
    print(f"\n{tried.told()}\n\nOn the same videos so far:\n\n{tried.table('folder')}")


def _add_seeds(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "seeds",
        help="the rows trained with several seeds: how far a figure is chance",
        description="Trains and tests rows with each seed, and writes metrics/seeds.json, .md and .png, and the table "
        "in docs/results.md. The seed in params.yaml is made by dvc repro; each other one is a DVC experiment, run by "
        "DVC's queue, so params.yaml and the other results stay as they are. Only what is missing runs; interrupted, "
        "the same command goes on. Earlier results of the same configuration, data and code are kept.",
    )
    command.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="in full or in short (default: all)")
    command.add_argument(
        "--seeds", nargs="+", type=_seed, default=[0, 1, 2, 3, 4], metavar="N", help="default: 0 1 2 3 4"
    )
    command.add_argument(
        "--again",
        action="store_true",
        help="train all that this clone has not trained, whatever metrics/seeds.json says",
    )
    command.set_defaults(call=_seeds)


def _seed(text: str) -> int:
    """For argparse: a seed as in params.yaml."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := int(text)) < 2**31:
            return value
    raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 0 to {2**31 - 1}")


def _seeds(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import seeded

    seeded.seeds(arguments.rows, arguments.seeds, arguments.again)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "predict",
        help="what is in a video: classes and probabilities",
        description="Classes and probabilities of videos, by a trained row or by published weights. Writes "
        "predictions.csv and a picture of each video. A broken video is named and passed over; the exit status is then "
        "1.",
    )
    _add_looking(command, "predictions")
    command.add_argument("--top", type=_positive(int), default=5, metavar="N", help="classes of each (default: 5)")
    command.add_argument("--no-pictures", action="store_false", dest="pictures", help="the table alone, in less time")
    command.add_argument(
        "--labelled", action="store_true", help="a video's folder names its class: say how many are right"
    )
    command.set_defaults(call=_predict)


def _add_looking(command: argparse.ArgumentParser, out: str) -> None:
    """Arguments of the commands that look at videos with a network."""
    command.add_argument("videos", nargs="+", type=Path, metavar="VIDEO_OR_FOLDER")
    whose = command.add_mutually_exclusive_group()
    whose.add_argument("--row", default="custom", metavar="ROW", help="a trained row (default: %(default)s)")
    whose.add_argument(
        "--weights", metavar="NAME_OR_FILE", help="published, torchvision, ig65m_32_kinetics, ...; a path or address"
    )
    command.add_argument(
        "--window", type=_positive(float), metavar="SECONDS", help="look at windows of this length, for long videos"
    )
    command.add_argument(
        "--stride", type=_positive(float), metavar="SECONDS", help="from window to window (default: the window)"
    )
    clips = _positive(int, most=1000)
    command.add_argument("--clips", type=clips, metavar="N", help="of a video or window (default: the row's)")
    command.add_argument("--crops", type=int, choices=(1, 3), help="of a clip (default: the row's)")
    command.add_argument(
        "--arithmetic",
        choices=("exact", "native", "half"),
        default="exact",
        help="exact: the same figures on every x86-64 processor with AVX2; native: the processor's or GPU's own; half: "
        "in half precision, where the hardware has it (default: %(default)s)",
    )
    command.add_argument("--out", type=Path, default=Path(out), metavar="FOLDER", help="(default: %(default)s)")


def _positive(kind: Callable[[str], float], most: int | None = None) -> Callable[[str], float]:
    """For argparse: a number above 0, and not above `most`."""
    expected = f"a {'whole ' if kind is int else ''}number above 0" + (f", at most {most}" if most else "")

    def number(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 < (value := kind(text)) < float("inf") and value <= (most or value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")

    return number


def _folder(out: Path) -> Path:
    """A folder that is there, or can be made when there is something to write. Raises ConfigError before the work."""
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"--out {out}: {there} is no folder; give another one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {out}: this user may not write to {there}; give another folder")
    return out


def _predict(arguments: argparse.Namespace) -> None:
    videos, network, looker = _looking(arguments)

    from r2plus1d.results import predicted  # brings matplotlib, after what can be refused without it
    from r2plus1d.results.labelled import Labelled
    from r2plus1d.zoo.prediction import class_names

    names, lengths = class_names(network), (arguments.window, arguments.stride)
    labelled = Labelled(videos, names) if arguments.labelled else None
    predicted.predict(videos, looker, names, arguments.top, *lengths, arguments.out, arguments.pictures, labelled)


def _looking(arguments: argparse.Namespace) -> tuple:
    """(the videos, the network, and what looks at videos with it)"""
    from r2plus1d.zoo.videos import find_videos

    _folder(arguments.out)
    if arguments.stride is not None and arguments.window is None:
        raise ConfigError("--stride goes with --window")
    videos = find_videos(arguments.videos)

    # These bring torch, after what can be refused without it.
    from r2plus1d.config.schema import Runtime
    from r2plus1d.model.checkpoint import CheckpointError
    from r2plus1d.system import arithmetic
    from r2plus1d.system.device import prepare
    from r2plus1d.zoo import prediction, weights

    kind = arguments.arithmetic
    arithmetic.choose(kind)
    try:
        network = weights.load(arguments.weights or f"row:{arguments.row}")
    except CheckpointError as error:
        way_out = "" if arguments.weights else "; or give --weights, such as --weights torchvision"
        raise ConfigError(f"{error}{way_out}") from error
    view = prediction.with_views(network.view, arguments.clips, arguments.crops)
    device = prepare(Runtime(device="auto", gpus=1, threads=None, lowered="auto", arithmetic=kind))
    return videos, network, prediction.Looker(network, device, view, kind)


def _add_features(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "features",
        help="what the last layer takes of videos, for search and clustering",
        description="Writes features.npy, a line of float32 numbers for each video or window: the mean over its views "
        "of what the network's last layer takes; and features.csv, which says of what each line is. With pyarrow "
        "(the extra parquet) also features.parquet, with both.",
    )
    _add_looking(command, "features")
    command.set_defaults(call=_features)


def _features(arguments: argparse.Namespace) -> None:
    videos, _, looker = _looking(arguments)

    from r2plus1d.results import predicted  # brings matplotlib, after what can be refused without it

    predicted.features(videos, looker, arguments.window, arguments.stride, arguments.out)


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export",
        help="a trained network for other programs: ONNX, torch.export or TorchScript",
        description="Writes a network that takes uint8 clips and gives probabilities, with labels, normalisation and "
        "view in its metadata, once its probabilities equal the network's on real clips.",
    )
    command.add_argument(
        "source", metavar="ROW", help="a trained row, a name of published weights, or the path or address of a file"
    )
    command.add_argument("--format", required=True, choices=("onnx", "pt2", "torchscript"))
    command.add_argument("--out", required=True, type=Path, metavar="FILE")
    command.add_argument(
        "--check", nargs="+", type=Path, metavar="VIDEO_OR_FOLDER", help="default: validation videos of the row"
    )
    command.set_defaults(call=_export)


def _read(arguments: argparse.Namespace) -> list[Path]:
    return [Path(arguments.source), *(arguments.check or [])]


def _export(arguments: argparse.Namespace) -> None:
    from r2plus1d.zoo import export, weights

    if arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out} is a folder; give the name of a file in it")
    if arguments.out.suffix.lower() not in ENDINGS[arguments.format]:
        endings = " or ".join(ENDINGS[arguments.format])
        raise ConfigError(f"--out {arguments.out}: expected a name that ends with {endings}")
    if any(place.exists() and arguments.out.exists() and place.samefile(arguments.out) for place in _read(arguments)):
        raise ConfigError(f"--out {arguments.out} is what the export is made from; give another name")
    _folder(arguments.out.parent)
    export.need(arguments.format)
    source = _full(arguments.source)
    network = weights.load(source)
    clips = export.clips_of(network, export.own_videos(source, arguments.check))
    worst = export.export(network, arguments.format, arguments.out, clips)
    shape = ", ".join(["N", *map(str, clips.shape[1:])])
    size, classes = arguments.out.stat().st_size / 1e6, network.arguments["num_classes"]
    print(
        f"{arguments.out}: {size:.1f} MB, uint8 clips [{shape}] to {classes} probabilities; on {len(clips)} clips of "
        f"videos they differ from the network's by {worst:.1g} at most"
    )


def _add_browse(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "browse",
        help="what a row's network really gets, as pictures",
        description="Writes contact sheets: clips of an epoch as they are augmented, all test views of one video, and "
        "videos of each class. The first thing to look at when a network does not learn.",
    )
    command.add_argument("row", metavar="ROW")
    command.add_argument("--epoch", type=_positive(int), default=1, metavar="N", help="of the training (default: 1)")
    command.add_argument("--classes", nargs="+", default=[], metavar="NAME", help="default: the first 50")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="(default: browse/ROW)")
    command.set_defaults(call=_browse)


def _browse(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import browse

    out = _folder(arguments.out or Path("browse", arguments.row))
    browse.browse(_full(arguments.row), arguments.epoch - 1, out, arguments.classes)


def _add_show(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "show",
        help="what made a row's results",
        description="Prints what trained, tested and timed a row: code, configuration, data, versions, processor; and "
        "whether the files on disk are still those.",
    )
    command.add_argument("target", metavar="ROW", help="a row, models/ROW, metrics/rows/ROW, or a model.safetensors")
    command.set_defaults(call=_show)


def _show(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import provenance

    print(provenance.show(_full(arguments.target)))


def _add_verify(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "verify",
        help="everything made again and compared with what is committed",
        description="Runs the pipeline, or one row of it, in a clean clone of the last commit with an empty cache, and "
        "compares every output and figure with the committed ones. Exits with 1 where one differs. KEEP=1 in the "
        "environment keeps the clone.",
    )
    command.add_argument("row", nargs="?", metavar="ROW", help="default: the whole pipeline")
    command.set_defaults(call=_verify)


def _verify(arguments: argparse.Namespace) -> None:
    from r2plus1d.results.verify import verify

    verify(arguments.row and _full(arguments.row))


def _add_published(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "published",
        help="the git tag that `dvc metrics diff published` compares with",
        description="Makes the local git tag `published`, a commit that holds the published figures as metrics. It "
        "changes no file of the project; `make repro` calls it.",
    )
    command.set_defaults(call=_published)


def _published(_: argparse.Namespace) -> None:
    from r2plus1d.results import published

    published.tag()


def _add_profile(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "profile",
        help="where the time went",
        description="Prints what the last run of each stage took, and writes it to benchmarks/results/profile.md and "
        "docs/results.md.",
    )
    command.set_defaults(call=_profile)


def _profile(_: argparse.Namespace) -> None:
    from r2plus1d.results import profile

    print(profile.profile())


def _add_compare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "compare",
        help="whether two networks, or one and the published figure, can be told apart",
        description="Compares two tests on the same videos, video by video, or a row's test with the published figure. "
        "Exits with 0 where they cannot be told apart (or are consistent), 3 where they differ, 4 where too few videos "
        "were measured to tell, and 1 where they cannot be compared.",
    )
    what = "a row of the workspace, REV or REV:ROW; REV: a DVC experiment or git revision"
    command.add_argument("first", metavar="A", help=f"{what} (without ROW: custom)")
    command.add_argument("second", metavar="B", help="likewise, or `published`")
    command.add_argument("--out", type=_csv, metavar="FILE.csv", help="all videos on which A and B disagree")
    command.add_argument(
        "--kinetics400", action="store_true", help="with published: A's dataset holds videos of that, by another name"
    )
    command.set_defaults(call=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import compare

    sys.exit(compare.compare(arguments.first, arguments.second, arguments.out, arguments.kinetics400))


def _add_compare_log(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "compare-log",
        help="our training curve on theirs",
        description="Prints two training logs side by side and plots one on the other. A log is a published *.log.json "
        "of MMAction2, our train.log.json, or a folder that holds one, such as models/custom.",
    )
    command.add_argument("ours", type=Path, metavar="OURS")
    command.add_argument("theirs", type=Path, metavar="THEIRS")
    command.add_argument("--out", type=_png, default="compare-log.png", metavar="FILE.png", help="default: %(default)s")
    command.set_defaults(call=_compare_log)


def _compare_log(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import logs

    ours, theirs = logs.read_log(arguments.ours), logs.read_log(arguments.theirs)
    print(logs.comparison(ours, theirs), flush=True)
    logs.plot_comparison(ours, theirs, arguments.out)
    print(f"\nplotted in {arguments.out}")


def _full(row: str) -> str:
    """A row is known by its short name, too."""
    from r2plus1d.config.resolve import full_name

    return full_name(row)


def _png(text: str) -> Path:
    """A picture never takes the place of a log."""
    return _ending(".png", text)


def _csv(text: str) -> Path:
    """Nor a table that of a test's figures."""
    return _ending(".csv", text)


def _ending(ending: str, text: str) -> Path:
    if Path(text).suffix.lower() != ending:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {ending}")
    return Path(text)
