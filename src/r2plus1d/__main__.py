"""Commands beside the pipeline: python -m r2plus1d COMMAND. Each imports what it needs, so that --help is quick."""

import argparse
from pathlib import Path

from r2plus1d.system.stage import run


def compare_log(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import logs  # noqa: PLC0415

    ours, theirs = logs.read_log(arguments.ours), logs.read_log(arguments.theirs)
    print(logs.comparison(ours, theirs), flush=True)
    logs.plot_comparison(ours, theirs, arguments.out)
    print(f"\nplotted in {arguments.out}")


def show(arguments: argparse.Namespace) -> None:
    from r2plus1d.results import provenance  # noqa: PLC0415

    print(provenance.show(arguments.target))


def show_profile(_: argparse.Namespace) -> None:
    from r2plus1d.results import profile  # noqa: PLC0415

    print(profile.profile())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m r2plus1d", description="R(2+1)D: commands beside the pipeline")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "compare-log",
        help="our training curve on theirs",
        description="Prints two training logs side by side and plots one on the other. A log is a published *.log.json "
        "of MMAction2, our train.log.json, or a folder that holds one, such as models/custom.",
    )
    command.add_argument("ours", type=Path, metavar="OURS")
    command.add_argument("theirs", type=Path, metavar="THEIRS")
    command.add_argument("--out", type=_png, default="compare-log.png", metavar="FILE.png", help="default: %(default)s")
    command.set_defaults(call=compare_log)
    command = commands.add_parser(
        "show",
        help="what made a row's results",
        description="Prints what trained, tested and timed a row: code, configuration, data, versions, processor; and "
        "whether the files on disk are still those.",
    )
    command.add_argument("target", metavar="ROW", help="a row, models/ROW, metrics/ROW, or a model.safetensors")
    command.set_defaults(call=show)
    command = commands.add_parser(
        "profile",
        help="where the time went",
        description="Prints what the last run of each stage took, and writes it into docs/results.md.",
    )
    command.set_defaults(call=show_profile)
    arguments = parser.parse_args()
    run(lambda: arguments.call(arguments))


def _png(text: str) -> Path:
    """A picture never takes the place of a log."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    return Path(text)


if __name__ == "__main__":
    main()
