"""What surrounds the training of any experiment: the attempt, the number of its steps, the Trainer, the result.

with attempt(cfg) as run:                       the run's folder, its log, signals, seeds
    data = …                                    an ExactData
    steps = total_steps(cfg.trainer, data)
    point = starting_point(cfg, data.described)
    module = …                                  a GuardedModule
    loss = fit(cfg, run, module, data, pick(cfg), point)
"""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from harness.callbacks.exact_resume import ExactResume, refuse_inexact
from harness.callbacks.first_step import FirstStep
from harness.checkpoint.io import DurableIO
from harness.checkpoint.read import Checkpoint
from harness.checkpoint.start import start_weights
from harness.console import quiet
from harness.data.exact import ExactData
from harness.distributed import cluster
from harness.errors import Stopped, UserError, said_of
from harness.fastest import precisions
from harness.hardware import Picks, peak_memory, pick, world_size
from harness.module import GuardedModule
from harness.nan.precision import FallbackPrecision
from harness.run.facts import RunFacts
from harness.run.folder import Run
from harness.run.requeue import requeue
from harness.run.signals import MAKE_ROOM, listening
from harness.sharding import refuse_what_cannot_be_sharded
from harness.step.oom_retry import out_of_memory
from harness.telemetry import logs
from harness.telemetry.loggers import build_loggers, count_from_one

log = logging.getLogger(__name__)

# Keys of conf/trainer/ that are not Lightning's.
NOT_ARGUMENTS = ("mps_fix",)
HOOKS_OF_A_STEP = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip
HARMLESS = ("lightning.pytorch.callbacks.", "harness.callbacks.")


@contextmanager
def attempt(cfg: DictConfig) -> Iterator[Run]:
    """Open the run's folder, listen to signals, keep a log, seed everything; write down how the attempt ended."""
    threads = torch.get_num_threads()
    with logs.recording(), listening():
        run = Run.open(cfg)
        try:
            for change in run.diary["attempts"][-1].get("changes", []):
                log.info("Changed since the last attempt: %s", change)
            seed_everything(cfg.seed, workers=True, verbose=False)
            yield run
        except Stopped as reason:
            run.close("stopped", reason=reason.why)
            again = reason.why == MAKE_ROOM and requeue(run)
            cure = "SLURM starts it again." if again else run.how_to_go_on
            raise Stopped(reason.why, code=reason.code, cure=cure) from None
        except BaseException as error:
            run.close("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            if threads != torch.get_num_threads():  # which `pick` may set
                torch.set_num_threads(threads)
        run.close("finished")


def total_steps(trainer: DictConfig, data: ExactData) -> int:
    """Return how many optimizer steps the run has: the length of the schedule.

    Lightning's `estimated_stepping_batches` is not asked: it builds the loaders before the run is restored (Lightning
    #20550).
    """
    accumulate, limit = trainer.get("accumulate_grad_batches") or 1, trainer.get("limit_train_batches")
    per_epoch = data.steps_per_epoch(world=world_size(trainer), accumulate=accumulate, limit=limit)
    by_epochs = (trainer.get("max_epochs") or -1) * per_epoch
    limits = [steps for steps in (trainer.get("max_steps") or -1, by_epochs) if steps > 0]
    return min(limits) if limits else 0


def limits(trainer: DictConfig, steps: int) -> dict[str, Any]:
    """Return within what a run trains: one that a callback ended goes on when these change."""
    return {"steps": steps, "max_time": str(trainer.get("max_time"))}


def finished(cfg: DictConfig, run: Run, point: Checkpoint, steps: int) -> dict[str, Any] | None:
    """Return the result of a run that has nothing more to do at `point`, and say so; else None."""
    if result := run.result(point.step, limits(cfg.trainer, steps)):
        early = f" of {steps}, where a callback ended it" if point.step < steps else ""
        more = "To train it longer, raise trainer.max_steps."
        log.info("%s is complete: %d steps%s. %s", run.folder.name, point.step, early, more)
    return result


def fit(
    cfg: DictConfig, run: Run, module: GuardedModule, data: ExactData, picks: Picks, point: Checkpoint | None
) -> float | None:
    """Train from `point`, or from the beginning, and return the validation loss of the last step."""
    if point is None:
        start_weights(cfg, module)
    trainer = build_trainer(cfg, picks, run, point, module)
    if data.val_set is None:
        trainer.limit_val_batches = 0  # no loader is asked for then, and nobody warns of an empty one
    with said_to_the_user(run.folder.name):
        trainer.fit(module, data, ckpt_path=point.path if point else None, weights_only=True)
        loss = final_loss(trainer, module, data, point)
    run.note(peak_memory=peak_memory(picks.device))
    run.note_result(trainer.global_step, loss, limits(cfg.trainer, total_steps(cfg.trainer, data)))
    return loss


def refuse_early(cfg: DictConfig) -> None:
    """Raise UserError, before anything is made, for what would be refused once the run's folder is there: a target of
    the wrong kind, arguments that a callback of Lightning or the Trainer does not take."""
    for group, kind in (("callbacks", Callback), ("logger", Logger)):
        for name, entry in cfg[group].items():
            with said_of(f"{group}.{name}"):
                target = entry and get_object(entry["_target_"])
            if isinstance(target, type) and not issubclass(target, kind):
                raise _of_another_kind(f"{group}.{name}", kind, target)
    # Only those that do nothing when they are built: what one's own does is done once, in the run.
    known = [name for name, entry in cfg.callbacks.items() if entry and entry["_target_"].startswith(HARMLESS)]
    with quiet(logging.WARNING), warnings.catch_warnings(action="ignore"):  # the run says it again
        callbacks = build_all(cfg.callbacks, known)
        refuse_inexact(callbacks)
        arguments = {"callbacks": callbacks, "logger": False, "enable_checkpointing": False}
        instantiate(_arguments(cfg, pick(cfg)), **arguments, _convert_="all")


def build_trainer(cfg: DictConfig, picks: Picks, run: Run, point: Checkpoint | None, module: GuardedModule) -> Trainer:
    """Return Lightning's Trainer with what was picked, and with callbacks and loggers that go on after `point`."""
    arguments = _arguments(cfg, picks)
    trainer: Trainer = instantiate(
        arguments,
        plugins=[*arguments.pop("plugins"), DurableIO(RunFacts.of(run.diary), module)],
        callbacks=[ExactResume(), *build_all(cfg.callbacks), FirstStep()],
        logger=build_loggers(
            cfg.logger,
            run_id=run.id,
            step=point.step if point else 0,
            validated=bool(point and point.manifest.get("score") is not None),
        ),
        enable_checkpointing=False,  # no ModelCheckpoint besides ours
        _convert_="all",
    )
    refuse_what_cannot_be_sharded(trainer, module)
    count_from_one(trainer)
    leave_out_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]  # set by Lightning
    return trainer


def leave_out_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Let Lightning pass over the hooks of a step that a callback does not have: it takes time for each, several for
    each callback."""
    for callback in callbacks:
        for hook in HOOKS_OF_A_STEP:
            if hook not in vars(callback) and getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


def _arguments(cfg: DictConfig, picks: Picks) -> dict[str, Any]:
    """Return Lightning's arguments, with `plugins` that are built."""
    values = OmegaConf.to_container(cfg.trainer, resolve=True)  # while ${run.dir} can be looked up: alone it could not
    assert isinstance(values, dict)
    arguments: dict[str, Any] = {
        str(key): value
        for key, value in values.items()
        if key not in NOT_ARGUMENTS and (value is not None or key == "check_val_every_n_epoch")
    }
    arguments |= {"accelerator": picks.accelerator, "precision": picks.precision, "default_root_dir": cfg.run.dir}
    arguments["plugins"] = [*instantiate(arguments.get("plugins", []), _convert_="all"), *cluster()]
    if arguments["precision"] == "16-mixed":
        arguments["plugins"].append(FallbackPrecision(picks.device, fallback=precisions(picks.device)[0]))
        del arguments["precision"]  # Lightning takes one or the other
    return arguments


def build_all(group: DictConfig, names: Iterable[Any] | None = None) -> list[Callback]:
    """Build the entries of these names in a group, by default all; an entry that is null is left out."""
    chosen = [name for name in (group if names is None else names) if group[name] is not None]
    built = {str(name): instantiate(group[name], _convert_="all") for name in chosen}
    for name, callback in built.items():
        if not isinstance(callback, Callback):
            raise _of_another_kind(f"callbacks.{name}", Callback, type(callback))
    return [*built.values()]


def _of_another_kind(key: str, kind: type, found: type) -> UserError:
    parent = f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}"
    return UserError(
        f"{key} is no {kind.__name__.lower()} of Lightning but {found.__name__}.",
        cure=f"Its _target_ has to name a class that inherits {parent}; ~{key} leaves it out.",
    )


def final_loss(trainer: Trainer, module: GuardedModule, data: ExactData, point: Checkpoint | None) -> float | None:
    """Return the validation loss of the last step, validating now unless that was just done; None with validation
    off."""
    if not trainer.limit_val_batches or data.val_set is None:
        return None
    last = point.manifest if point and point.step == trainer.global_step else {}
    if last.get("monitor") == "val/loss" and last["score"] is not None:  # stopped between validation and result
        return float(last["score"])
    if module.validated_at != trainer.global_step:
        log.info("Validating the last step on all held-out data")
        trainer.validate(module, data, verbose=False)
    return float(trainer.callback_metrics["val/loss"])


@contextmanager
def said_to_the_user(name: str) -> Iterator[None]:
    """Say what to do when memory runs out where no smaller pieces help, in a loader process or on the device, and what
    Lightning refuses."""
    try:
        yield
    except MisconfigurationException as error:  # what only Lightning knows: 0.0001 of a few batches, say
        raise UserError(f"Lightning cannot train so: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        goes_on = "The same command goes on from the last checkpoint"
        if "DataLoader worker" in str(error):
            cure = f"{goes_on}; data.num_workers=0 loads without processes."
            raise UserError(f"A loader worker died ({error}).", cure=cure) from error
        if isinstance(error, NotImplementedError) and "device" in str(error):  # torch's, of a kernel that is missing
            cure = "Take another trainer=…, or another kernel, such as model.attention=sdpa."
            raise UserError(f"This device cannot compute that: {' '.join(str(error).split())}", cure=cure) from error
        if out_of_memory(error):
            smaller = f"run.name={name} data.batch_size=… or model.gradient_checkpointing=true"
            cure = f"{goes_on}; add {smaller} and the same run takes less."
            raise UserError(f"Out of memory outside of a training step ({error}).", cure=cure) from error
        raise
