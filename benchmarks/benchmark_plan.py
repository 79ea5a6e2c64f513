"""How wrong is `train.py --plan`? Each model is planned, then trained, in turns: what was planned over what it took.

The time is that of the run after its process has imported everything, as run.json has it. 124m runs at a batch of one
and few steps: it takes seconds a step on two cores.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import project
from timing import Bar, Outcome, Sample, Samples

from harness.report.planned import planned
from harness.report.read import read

STEPS = {"tiny": 300, "14m": 100, "124m": 10}
SHORT = {"tiny": 100}
WITHIN_MEMORY, WITHIN_TIME = 0.15, 0.25


def measure(rounds: int = 3, *, short: bool = False) -> Outcome:
    models = SHORT if short else STEPS
    samples: Samples = {name: [] for model in models for name in names(model)}
    errors: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for model, steps in models.items():
                said = both(Path(folder), model, steps, f"{model}-{number}")
                took, plan = names(model)
                for who, which in ((took, "actual"), (plan, "planned")):
                    seconds, megabytes = said["seconds"][which], said["memory"][which] / 1e6
                    samples[who].append(Sample(seconds, None, megabytes))
                for what in ("memory", "seconds"):
                    errors.setdefault(f"{model}, {what}", []).append(said[what]["ratio"])
    bars = [
        Bar(f"the time planned for {model} over the time taken", *reversed(names(model)), clock="wall")
        for model in models
    ]
    return Outcome(samples, bars, unit="s", memory=True, notes=[verdict(errors)])


def both(folder: Path, model: str, steps: int, name: str) -> dict[str, dict[str, float]]:
    """Plan a run, train it, and return what its report says of the plan."""
    words = [
        f"model={model}", "data=text", f"data.path={project.corpus(folder)}", f"data.prepared={folder}/prepared",
        f"run.root={folder}/runs", f"run.name={name}", "trainer=cpu", f"trainer.max_steps={steps}",
        *(["data.batch_size=1", "trainer.limit_val_batches=2"] if model == "124m" else []),
    ]  # fmt: skip
    for flags in (["--plan"], []):
        done = subprocess.run(
            [sys.executable, str(project.PROJECT / "train.py"), *flags, *words], cwd=folder, capture_output=True,
            text=True, encoding="utf-8", check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stdout[-1000:] + done.stderr[-2000:])
    return planned(read(folder / "runs" / name))


def names(model: str) -> tuple[str, str]:
    return f"{model}, taken", f"{model}, planned"


def verdict(errors: dict[str, list[float]]) -> str:
    """Say for each model and measure the worst ratio of all rounds, and whether that is within the bar."""
    said = []
    for name, ratios in errors.items():
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        bar = WITHIN_MEMORY if name.endswith("memory") else WITHIN_TIME
        kept = "within" if abs(worst - 1) <= bar else "not within"
        said.append(f"- {name}: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; {kept} {bar:.0%}")
    return "\n".join(["Planned over taken, of each round:", "", *said])
