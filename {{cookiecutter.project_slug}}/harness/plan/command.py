"""The story of `python train.py --plan`: a process for each run that is not finished, what each says, and the sum.

Nothing heavy is imported here. A plan is kept beside the run, whose report compares the two.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from harness.config.compose import compose_all
from harness.config.identity import flat, resolved
from harness.config.jobs import Multirun
from harness.config.names import CONF
from harness.errors import UserError
from harness.launch.status import Status
from harness.plan import show
from harness.run import diary, plans
from harness.run.plans import Plan

# Jobs of a sweep that differ only in these cost the same: one of them is looked at.
SAME_COST = (
    "seed", "optimizer.lr", "optimizer.weight_decay", "optimizer.betas", "optimizer.momentum", "scheduler.",
    "model.peak_lr", "run.", "sweep.", "resume", "hydra.",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """What the process that makes a plan is told."""

    target: str  # `module:function`, which trains
    words: Sequence[str]
    name: str
    folder: str  # a temporary one, which is also where the answer goes
    done: int  # steps that the run has behind it
    why_counted: str = ""

    @property
    def answer(self) -> Path:
        return Path(self.folder, "plan.json")


def run(target: str, words: Sequence[str], cfg: DictConfig) -> None:
    """Plan the run of a config, whose words are checked."""
    plan = made(target, words, Path(cfg.run.root, cfg.run.name))
    show.tell(plan)


def sweep(target: str, jobs: Multirun) -> None:
    """Plan every job of a sweep that is not finished, and add them up."""
    if jobs.is_search:
        raise UserError("A search chooses its jobs one after the other.", cure="Plan one of them: leave -m out.")
    at_once = int(jobs.launcher.get("jobs") or 1)
    if at_once > 1:  # as its jobs will have it
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    configs = compose_all([list(job.words) for job in jobs.jobs])
    known: dict[str, Plan] = {}
    found: list[Plan] = []
    for job, cfg in zip(jobs.jobs, configs, strict=True):
        if Status.of(jobs.folder, job).state == "finished":
            continue
        folder, twin = jobs.folder / job.name, known.get(alike := cost(cfg))
        if twin is None or done(folder):
            plan = made(target, job.words, folder)
        else:
            plans.keep(folder, plan := replace(twin, name=job.name))
        if not plan.done:
            known[alike] = plan
        found.append(plan)
    show.tell_all(found, finished=len(jobs.jobs) - len(found), at_once=at_once)


def cost(cfg: DictConfig) -> str:
    """Return a text that two configs share if their runs cost the same."""
    kept = {key: value for key, value in flat(resolved(cfg)).items() if not key.startswith(SAME_COST)}
    return json.dumps(kept, default=str).replace(str(cfg.run.dir), "")  # which loggers write to


def done(folder: Path) -> int:
    """Return how many steps the run in `folder` has behind it."""
    manifest = diary.newest_manifest(folder)
    return int(manifest["step"]) if manifest else 0


def made(target: str, words: Sequence[str], folder: Path) -> Plan:
    """Return the plan of the run in `folder`, and keep it. Raises UserError where the run could not begin either."""
    print(f"Planning {folder.name}: a few steps, which are thrown away", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True) as scratch:
        order = Order(target, words, folder.name, scratch, done(folder))
        plan, said = answered(order)
        if plan is None and said.startswith("SIG"):  # the system ends what fills its memory
            why = f"measuring it was ended by {said}: the memory may have been full"
            plan, said = answered(replace(order, why_counted=why))
    if plan is None:
        raise UserError(f"There is no plan, for the run could not begin:\n{said}")
    plans.keep(folder, plan)
    return plan


def answered(order: Order) -> tuple[Plan | None, str]:
    """Return the plan that a process makes; or None and why there is none: a signal, or what it said."""
    file = Path(order.folder, "order.json")
    file.write_text(json.dumps(asdict(order)), encoding="utf-8")
    path = os.pathsep.join(dict.fromkeys([str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]))
    process = subprocess.run(
        [sys.executable, "-c", "from harness.plan.child import main; main()", str(file)],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if process.returncode == 0:
        return plans.parse(order.answer.read_text(encoding="utf-8")), ""
    if process.returncode < 0:
        return None, signal.Signals(-process.returncode).name
    return None, process.stdout[-3000:].strip()
