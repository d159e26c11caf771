"""The command `r2plus1d seeds`: what is missing is trained, and what is known is written down."""

from collections.abc import Sequence

from r2plus1d.results import seeds as tables
from r2plus1d.results.summary import short_names
from r2plus1d.system import paths
from r2plus1d.system.files import held, must_read_json
from r2plus1d.system.git import need_clone
from r2plus1d.zoo import seeds as trainings

PLACED = (
    f"It is in {tables.SEEDS.parent}/ and {paths.RESULTS}; with `dvc repro report`, mean and deviation also in "
    f"{paths.README} and {paths.REPORT / 'index.html'}."
)


def seeds(asked: Sequence[str], numbers: Sequence[int], again: bool = False) -> None:
    """Trains and tests rows, by full or short name (all where none is `asked` for), with each of these seeds and the
    one in params.yaml; prints the table.

    With `again` nothing is believed that stands in metrics/seeds.json: only experiments of this clone count.
    Writes metrics/seeds.json, .md and .png and the part of docs/results.md, also after each training, so that what is
    reached is kept. Raises ConfigError for rows that cannot be, SeedsError or QueueError where a training failed.
    """
    need_clone()
    with held(paths.lock("seeds", None), "r2plus1d seeds"):
        configs = trainings.configurations()
        names = short_names(list(configs.values()), must_read_json(paths.PUBLISHED))
        rows = trainings.chosen(asked, names)
        trainings.refuse([configs[row] for row in rows])
        trainings.prepare(rows)
        identities = {row: trainings.identity(row) for row in configs}
        current = configs[rows[0]].seed
        others = sorted({*numbers} - {current})

        def gathered() -> tables.Found:
            """What is known by now, written down."""
            found, now = trainings.finished(rows, others), {}
            for row in rows:
                known = {current: trainings.here(row)} | found[row]
                now[row] = {"asked": sorted(numbers), "current": current, "seeds": known}
            before = {"rows": {}} if again else tables.read()
            merged = tables.merged(before, configs[rows[0]].dataset, identities, now)
            tables.publish(merged, names)
            return merged

        known = gathered()
        missing = {seed: [row for row in rows if seed in tables.missing(known, row)] for seed in others}
        missing = {seed: without for seed, without in missing.items() if without}
        wrong = trainings.train(missing, configs, gathered) if missing else []
        print(f"\n{tables.table(gathered(), names)}\n\n{PLACED}", flush=True)
        if wrong:
            raise trainings.SeedsError(
                f"{'; '.join(wrong)}. The same command tries again; with --rows it trains some rows without the others"
            )
