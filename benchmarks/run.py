"""Measure, one name after another: python benchmarks/run.py NAME… | all | tables

    host    host time a step adds, with a model that computes nothing       guard   the NaN guard at 14M
    step    train.py with all on against a raw loop, 14M                     events  the event log at 14M
    save    how long a checkpoint stops training                             resume  the first batch, early and late
    start   help, a config error, the first step, beside imports             data    MB/s and memory of preparing text
    report  MB/s of a report on events                                       bake    cookiecutter, over one file
    plan    what --plan says of a run over what the run then takes
    peers   nanoGPT, Hugging Face's Trainer, Lightning at their defaults     sweep   jobs an hour, over cold starts
    limit   a step over its matrix products at the machine's peak            muon    steps to AdamW's loss
    loss    time to nanoGPT's loss on Shakespeare, beside it                 heap    freed memory kept, over given back
    gpu     124m on a GPU, beside nanoGPT

    --rounds N    how often contestants take turns        --short    a smaller measurement, for `make bench`
    --compare     fail where a ratio is a tenth worse than on file for this kind of machine; nothing is written

Each writes results/KIND/NAME.json, KIND being the kind of this machine, and prints its table; `tables` makes RESULTS.md
and the README's table of all that is on file.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

NAMES = (
    "host", "guard", "events", "step", "save", "resume", "start", "data", "report", "bake", "peers", "sweep", "limit",
    "muon", "loss", "plan", "heap", "gpu",
)  # fmt: skip
SHORT = ("host", "start", "report", "bake")  # what `make bench` runs: under five minutes
NO_TIME = "not run: there is no measurement of it yet."
NO_GPU = {"gpu": "not run: no GPU was at hand."}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*NAMES, "all", "short", "tables"], metavar="NAME")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    wanted = [
        name for word in options.names for name in {"all": NAMES, "short": SHORT, "tables": ()}.get(word, (word,))
    ]
    worse = [sentence for name in wanted for sentence in measure(name, options)]
    if not options.compare:
        write_tables()
    print(*worse, sep="\n")
    return 1 if worse else 0


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """Run one benchmark, print its table, and write it down or compare it with what is on file."""
    import machine
    import record
    import timing

    benchmark = importlib.import_module(f"benchmark_{name}")
    facts = machine.facts()
    arguments = {"rounds": options.rounds} if options.rounds else {}
    try:
        outcome = benchmark.measure(short=options.short, **arguments)
    except timing.Absent as why:
        print(f"{name}: not run: {why}.", flush=True)
        return []
    found = record.result(name, outcome, facts)
    print(f"\n{name}, {machine.kind()}\n\n{record.table(found)}\n", flush=True)
    if not options.compare:
        record.save(machine.kind(), found)
        return []
    before = record.load(machine.kind(), name)
    if before is None:
        print(f"Nothing is on file for {name} on this kind of machine: there is nothing to compare with.")
        return []
    return list(record.losses(before, found))


def not_run() -> dict[str, str]:
    """Return what has no result on any machine, and why."""
    import record

    ran = {found["name"] for results in record.kinds().values() for found in results}
    return {name: why for name, why in (dict.fromkeys(NAMES, NO_TIME) | NO_GPU).items() if name not in ran}


def write_tables() -> None:
    import record

    record.PAGE.write_text(record.page(not_run()), encoding="utf-8", newline="\n")
    readme = record.README.read_text(encoding="utf-8")
    record.README.write_text(record.with_speed(readme), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    sys.exit(main())
