"""What was planned for a run, kept beside it as `runs/.plans/NAME.json`: its report says how wrong that was."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from harness.files import Unreadable, parsed, write_whole

log = logging.getLogger(__name__)

FOLDER = ".plans"


@dataclass(frozen=True)
class Plan:
    """What a run takes. Bytes, seconds; `memory` is that of one device (on a CPU: of the process) at its peak, by part.

    why_counted: empty where a few steps were measured; else why not, and then no time is known.
    """

    name: str
    why_counted: str
    device: str
    precision: str
    strategy: str
    devices: int
    parameters: int
    trainable: int
    memory: dict[str, int]
    data: dict[str, dict[str, int]]  # of each split, in the words of the data module
    windows: int
    held_out: int
    epochs: float
    steps: int
    done: int  # of them, by the run's newest checkpoint
    step_windows: int  # of an optimizer step, over all devices
    step_units: int
    unit: str
    start_seconds: float  # of the process, before the run begins
    seconds: dict[str, float]  # of the run, by part, for the steps that are not done
    step_seconds: float
    operations: float  # floating-point, of all steps; 0 where they were not counted
    checkpoints: int  # kept at a time
    checkpoint_bytes: int
    disk_bytes: int  # of all that are kept

    @property
    def peak(self) -> int:
        return sum(self.memory.values())


def parse(text: str) -> Plan:
    """Return the plan in a text. Raises ValueError, KeyError or TypeError for anything else."""
    loaded = json.loads(text)
    plan = Plan(**{field.name: loaded[field.name] for field in fields(Plan)})
    numbers = (*plan.memory.values(), *plan.seconds.values(), plan.steps, plan.checkpoint_bytes, plan.disk_bytes)
    if not all(type(number) in (int, float) for number in numbers):
        raise ValueError("its numbers are none")
    return plan


def text(plan: Plan) -> str:
    return json.dumps(asdict(plan), indent=1) + "\n"


def keep(folder: Path, plan: Plan) -> None:
    """Keep the plan of the run in `folder`, which need not be there yet. A disk that refuses is said, no more."""
    path = folder.parent / FOLDER / f"{folder.name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text(plan))
    except OSError as error:
        log.warning("The plan cannot be kept in %s (%s).", path.parent, error.strerror or error)


def find(folder: Path) -> Plan | None:
    """Return the plan that was made for the run in `folder`, if there is one that can be read."""
    folder = folder.resolve()
    try:
        return parsed(folder.parent / FOLDER / f"{folder.name}.json", parse)
    except Unreadable as reason:
        log.warning("%s.", reason)
        return None
