"""The console command `r2plus1d`, also `python -m r2plus1d`. Each command imports what it needs, so --help is quick."""

# ruff: noqa: PLC0415

import argparse
from pathlib import Path

from r2plus1d.system.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="r2plus1d", description="R(2+1)D: commands that go with the pipeline")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_finetune, _add_show, _add_verify, _add_published, _add_profile, _add_compare_log):
        add(commands)
    arguments = parser.parse_args()
    run(lambda: arguments.call(arguments))


def _add_finetune(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "finetune",
        help="a model for your own labelled videos",
        description="Trains, tests and benchmarks the row `custom` on a folder of videos, and no other row: sets "
        "params.yaml and runs DVC. The same command again does nothing, or goes on where it was interrupted.",
    )
    command.add_argument("videos", type=Path, metavar="VIDEOS", help="one sub-folder per class; or train/ and val/")
    command.add_argument(
        "--init",
        default="torchvision",
        metavar="NAME",
        help="weights to start from: torchvision, published, published_1x, ig65m_8, ig65m_32, ig65m_8_kinetics, "
        "ig65m_32_kinetics, the path or https address of a file, or none (default: %(default)s)",
    )
    command.add_argument(
        "-S", action="append", default=[], dest="settings", metavar="KEY=VALUE", help="as for dvc exp run"
    )
    command.set_defaults(call=_finetune)


def _finetune(arguments: argparse.Namespace) -> None:
    from r2plus1d.zoo import finetune

    finetune.finetune(arguments.videos, arguments.init, arguments.settings)


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

    print(provenance.show(arguments.target))


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

    verify(arguments.row)


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


def _png(text: str) -> Path:
    """A picture never takes the place of a log."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    return Path(text)
