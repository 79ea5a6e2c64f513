"""What watches over a run, for any LightningModule. Whatever is not in this list is private and may change."""

TYPE_CHECKING = False  # typing's own takes a third of the time until Ctrl-C has its answer, in harness.cli

# Public name: its module. Imported when asked for, since most of these need torch and `harness.cli` must not.
PUBLIC = {
    "GuardedModule": "harness.module",  # inherit: the guarded step, exact means, out-of-memory retry
    "ExactData": "harness.data.exact",  # inherit: an order that depends on the seed and one cursor only
    "Batch": "harness.batch",  # what a batch is: named tensors, the row first
    "BatchFormat": "harness.batch",  # inherit to say more of your batches: how large, what is in them, how to show one
    "attempt": "harness.trainer",  # surround a training: the run's folder, log, signals, seeds
    "finished": "harness.trainer",  # is there nothing more to do?
    "limits": "harness.trainer",  # what a result is complete for
    "spread_step": "harness.batch_size",  # let accumulation follow from data.global_batch
    "total_steps": "harness.trainer",  # how many optimizer steps a run has
    "starting_point": "harness.checkpoint.resume",  # the checkpoint to go on from
    "pick": "harness.hardware",  # device, precision and compilation, where they are `auto`
    "Kernels": "harness.probe",  # what of a module is timed for that
    "fit": "harness.trainer",  # train, and validate at the end
    "Command": "harness.commands",  # one line in the table of `python -m …`
    "run_command": "harness.commands",  # the frame of `python -m …`
    "UserError": "harness.errors",  # raise it: what happened, and what to type next
    "emit": "harness.telemetry.events",  # one line in the event log
}

if TYPE_CHECKING:
    from typing import Any

    from harness.batch import Batch, BatchFormat
    from harness.batch_size import spread_step
    from harness.checkpoint.resume import starting_point
    from harness.commands import Command, run_command
    from harness.data.exact import ExactData
    from harness.errors import UserError
    from harness.hardware import pick
    from harness.module import GuardedModule
    from harness.probe import Kernels
    from harness.telemetry.events import emit
    from harness.trainer import attempt, finished, fit, limits, total_steps

__all__ = [
    "Batch",
    "BatchFormat",
    "Command",
    "ExactData",
    "GuardedModule",
    "Kernels",
    "UserError",
    "attempt",
    "emit",
    "finished",
    "fit",
    "limits",
    "pick",
    "run_command",
    "spread_step",
    "starting_point",
    "total_steps",
]


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name not in PUBLIC:
        raise AttributeError(f"harness has no public name {name!r}: the list is in harness/__init__.py.")
    return getattr(import_module(PUBLIC[name]), name)
