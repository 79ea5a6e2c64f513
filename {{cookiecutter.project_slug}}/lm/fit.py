"""The story of a run: its folder, data, model, training, goodbye. Every entry point that trains comes here."""

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from hydra.utils import get_method, instantiate
from lightning.pytorch import Callback, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from transformers import PretrainedConfig

from harness.checkpoint.resume import starting_point
from harness.errors import Stopped, UserError
from harness.hardware import Picks, native_precision, pick
from harness.nan.precision import FallbackPrecision
from harness.run.folder import Run
from harness.run.signals import listening
from harness.step.oom_retry import out_of_memory
from harness.telemetry import logs
from harness.telemetry.loggers import build_loggers
from lm.data.datamodule import LmData
from lm.data.prepare import Recipe, prepare
from lm.data.show import show
from lm.models.build import build_model, context_length, count_parameters, model_config
from lm.module import LmModule
from lm.summary import print_summary

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """Train, or continue, the run of `cfg`. Returns its validation loss in nats, for sweepers that minimize."""
    with logs.recording(), listening(), run_attempt(cfg) as run:
        for change in run.diary["attempts"][-1].get("changes", []):
            log.info("Changed since the last attempt: %s", change)
        seed_everything(cfg.seed, workers=True, verbose=False)
        config = model_config(cfg.model.config)
        data = load_data(cfg, config)
        if cfg.debug.show_data:
            show(data, windows=cfg.debug.show_data)
            return None
        steps = total_steps(cfg, data)
        point = starting_point(cfg, data)
        if point and (result := run.result(point.step, steps)):
            log.info(
                "%s is complete: %d steps. To train it longer, raise trainer.max_steps.", run.folder.name, point.step
            )
            return cast("float | None", result["val_loss"])
        picks = pick_hardware(cfg, config, steps, run)
        module = build_module(cfg, config, picks, steps)
        trainer = build_trainer(cfg, picks, run, step=point.step if point else 0)
        with oom_as_user_error():
            trainer.fit(module, data, ckpt_path=point.path if point else None, weights_only=True)
            loss = final_loss(trainer, module, data)
        run.note_result(trainer.global_step, loss)
        if trainer.is_global_zero:
            how = {"context": context_length(config), "prompt": cfg.data.prompt}
            print_summary(run.folder, module.model, data.tokenizer, loss, **how)
        return loss


@contextmanager
def run_attempt(cfg: DictConfig) -> Iterator[Run]:
    """Open the run's folder, and write down how the attempt ended."""
    run = Run.open(cfg)
    try:
        yield run
    except Stopped as reason:
        run.close("stopped", reason=reason.why)
        raise
    except BaseException as error:
        run.close("failed", error=f"{type(error).__name__}: {error}")
        raise
    run.close("finished")


@contextmanager
def oom_as_user_error() -> Iterator[None]:
    """Say what to do when memory runs out where no smaller pieces help, in a loader process or on the device."""
    try:
        yield
    except RuntimeError as error:
        goes_on = "The same command goes on from the last checkpoint"
        if "DataLoader worker" in str(error):
            cure = f"{goes_on}; data.num_workers=0 loads without processes."
            raise UserError(f"A loader worker died ({error}).", cure=cure) from error
        if out_of_memory(error):
            cure = f"{goes_on}; a smaller data.batch_size or model, or model.gradient_checkpointing=true, takes less."
            raise UserError(f"Out of memory outside of a training step ({error}).", cure=cure) from error
        raise


def load_data(cfg: DictConfig, config: PretrainedConfig) -> LmData:
    """Prepare the data, or find them prepared, and refuse what is too little for one batch."""
    recipe = Recipe(config.vocab_size, cfg.data.val_fraction, cfg.seed, cfg.data.limit)
    prepared = prepare(instantiate(cfg.data.source), recipe, Path(cfg.data.prepared))
    context = context_length(config)
    data = LmData(
        prepared,
        context=context,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        packing=cfg.data.packing,
    )
    if len(data.train_windows) < cfg.data.batch_size:
        raise UserError(
            f"The training text has {prepared.meta['train']['tokens']:,} tokens, "
            f"fewer than one batch of {cfg.data.batch_size} x {context}.",
            cure="Use more text, or lower data.batch_size.",
        )
    return data


def total_steps(cfg: DictConfig, data: LmData) -> int:
    """Return how many optimizer steps the run has: the length of the schedule.

    Lightning's `estimated_stepping_batches` is not asked: it builds the loaders before the run is restored (Lightning
    #20550).
    """
    devices = cfg.trainer.devices if isinstance(cfg.trainer.devices, int) and cfg.trainer.devices > 0 else 1
    batches = len(data.train_windows) // (cfg.data.batch_size * devices * cfg.trainer.get("num_nodes", 1))
    limit = cfg.trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs = cfg.trainer.get("max_epochs") or -1
    by_epochs = epochs * math.ceil(batches / cfg.trainer.accumulate_grad_batches) if epochs > 0 else -1
    limits = [steps for steps in (cfg.trainer.max_steps, by_epochs) if steps > 0]
    return min(limits) if limits else 0


def pick_hardware(cfg: DictConfig, config: PretrainedConfig, steps: int, run: Run) -> Picks:
    """Resolve what is `auto`, and say in one line what was picked and why."""
    parameters, context = count_parameters(config), context_length(config)
    tokens_per_step = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches * context
    picks = pick(cfg, context=context, parameters=parameters, tokens=steps * tokens_per_step)
    log.info(
        "%s: %s parameters, %s steps of %s tokens",
        run.folder.name,
        f"{parameters:,}",
        f"{steps:,}",
        f"{tokens_per_step:,}",
    )
    log.info("%s", picks)
    run.note(picks=picks.reasons, parameters=parameters)
    return picks


def build_module(cfg: DictConfig, config: PretrainedConfig, picks: Picks, steps: int) -> LmModule:
    """Return the model with its optimizer and schedule, still without weights of an earlier attempt."""
    model = build_model(config, attention=picks.attention, gradient_checkpointing=cfg.model.gradient_checkpointing)
    make_optimizer = instantiate(cfg.optimizer, _partial_=True, _convert_="all")
    schedule = {key: value for key, value in cfg.scheduler.items() if key != "_target_"}
    make_scheduler = functools.partial(get_method(cfg.scheduler["_target_"]), total_steps=steps, **schedule)
    labels = cfg.data.batch_size * (context_length(config) - 1)  # the first token of a window is predicted by nothing
    return LmModule(model, make_optimizer, make_scheduler, nominal_labels=labels, compiled=picks.compile)


def build_trainer(cfg: DictConfig, picks: Picks, run: Run, *, step: int) -> Trainer:
    """Return Lightning's Trainer with what was picked, and with callbacks and loggers that go on after `step`."""
    values = OmegaConf.to_container(cfg.trainer, resolve=True)  # while ${run.dir} can be looked up: alone it could not
    assert isinstance(values, dict)
    arguments = {key: value for key, value in values.items() if value is not None or key == "check_val_every_n_epoch"}
    arguments.pop("mps_fix")
    arguments |= {"accelerator": picks.accelerator, "precision": picks.precision, "default_root_dir": str(run.folder)}
    plugins = list(instantiate(arguments.pop("plugins", []), _convert_="all"))
    if arguments["precision"] == "16-mixed":
        device = {"gpu": "cuda"}.get(picks.accelerator, picks.accelerator)
        plugins.append(FallbackPrecision(device, fallback=native_precision(device)[0]))
        del arguments["precision"]  # Lightning takes one or the other
    trainer: Trainer = instantiate(
        arguments,
        plugins=plugins,
        callbacks=build_all(cfg.callbacks),
        logger=build_loggers(cfg.logger, run_id=run.id, step=step),
        enable_checkpointing=False,  # no ModelCheckpoint besides ours
        _convert_="all",
    )
    return trainer


def build_all(group: DictConfig) -> list[Callback]:
    """Build every entry of a group; an entry that is null is left out."""
    return [instantiate(entry, _convert_="all") for entry in group.values() if entry is not None]


def final_loss(trainer: Trainer, module: LmModule, data: LmData) -> float | None:
    """Return the validation loss of the last step, validating now unless that was just done; None with validation
    off."""
    if not trainer.limit_val_batches:
        return None
    if module.validated_at != trainer.global_step:
        trainer.validate(module, data, verbose=False)
    return float(trainer.callback_metrics["val/loss"])
