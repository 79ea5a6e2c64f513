"""The story of a run: its data, model, training, summary. Every entry point that trains comes here.

What surrounds it for any experiment (the run's folder, the Trainer, the result) is harness/trainer.py.
"""

import functools
import logging
from typing import Any, cast

from hydra.utils import get_method, instantiate
from omegaconf import DictConfig
from transformers import PretrainedConfig

from harness.batch_size import settle_batch_size, spread_step
from harness.checkpoint.resume import starting_point
from harness.data.layout import APART
from harness.data.material import build_data_module
from harness.hardware import Picks, pick, world_size
from harness.run.folder import Run
from harness.sequences import refuse_leaks
from harness.trainer import attempt, finished, fit, total_steps
from lm.batch import TokenBatch, logits_of
from lm.data.show import show
from lm.keys import Data
from lm.models.attention import GPU_ONLY, pick_attention
from lm.models.build import build_model, context_length, count_parameters, model_config, vocabulary_size
from lm.models.lora import beneath
from lm.module import LmModule
from lm.summary import print_summary

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """Train, or continue, the run of `cfg`. Returns its validation loss in nats, for sweepers that minimize."""
    with attempt(cfg) as run:
        config = model_config(cfg.model)
        context = context_length(cfg.model, config)
        data = build_data(cfg, config)

        def to_try(picks: Picks) -> LmModule:
            return build_module(cfg, config, data, with_attention(picks, cfg, context), steps=1, load=False)

        settle_batch_size(cfg, run, data, to_try, row=context)
        spread_step(cfg, row=context, unit="tokens")
        if cfg.debug.show_data:
            show(data, windows=cfg.debug.show_data)
            return None
        steps = total_steps(cfg.trainer, data)
        point = starting_point(cfg, data.described)
        if point and (result := finished(cfg, run, point, steps)):
            return cast("float | None", result["val_loss"])
        picks = pick_hardware(cfg, config, steps, run)
        module = build_module(cfg, config, data, picks, steps, load=point is None)
        loss = fit(cfg, run, module, data, picks, point)
        print_summary(run.folder, module.model, data.tokenizer, loss, context=data.context, prompt=cfg.data.prompt)
        return loss


def build_data(cfg: DictConfig, config: PretrainedConfig | None) -> Any:
    """Build the data module and tell it what is known by now."""
    data = build_data_module(cfg.data, Data.kept)
    vocabulary = vocabulary_size(cfg.model, config)
    data.connect(vocab_size=vocabulary, context=context_length(cfg.model, config), seed=cfg.seed)
    size = data.tokenizer.get_vocab_size()
    if vocabulary > 2 * size and "pretrained" not in cfg.model:  # embeddings that cost memory and learn nothing
        log.warning(
            "The model has %d tokens and the tokenizer only %d: set the vocabulary near that.", vocabulary, size
        )
    return data


def pick_hardware(cfg: DictConfig, config: PretrainedConfig | None, steps: int, run: Run) -> Picks:
    """Resolve what is `auto`, and say in two lines what was picked and why."""
    parameters, context = count_parameters(cfg.model, config), context_length(cfg.model, config)
    batch = cfg.data.batch_size * cfg.trainer.accumulate_grad_batches * world_size(cfg.trainer)  # rows of a step
    # Six floating-point operations a parameter and token: Kaplan et al. 2020.
    picks = pick(cfg, compile=cfg.model.compile, flops=6.0 * parameters * steps * batch * context)
    with_attention(picks, cfg, context)
    numbers = (f"{number:,}" for number in (parameters, steps, batch * context))
    log.info("%s: %s parameters, %s steps of %s tokens", run.folder.name, *numbers)
    log.info("%s", picks)
    run.note(picks=picks.reasons, parameters=parameters)
    return picks


def with_attention(picks: Picks, cfg: DictConfig, context: int) -> Picks:
    """Return `picks` with the attention kernel."""
    asked, fix = str(cfg.model.attention), bool(cfg.trainer.mps_fix)
    picks.attention, why = pick_attention(asked, picks.device, picks.precision, context, mps_fix=fix)
    picks.reasons.insert(2, why)
    return picks


def build_module(
    cfg: DictConfig, config: PretrainedConfig | None, data: Any, picks: Picks, steps: int, *, load: bool = True
) -> LmModule:
    """Return the model with its optimizer and schedule, still without weights of an earlier attempt; `load` says that
    there is none."""
    model = build_model(cfg.model, config, attention=picks.attention, special_ids=data.special_ids, load=load)
    if getattr(data, "packing", True) in APART and picks.attention not in GPU_ONLY:
        refuse_leaks(model, functools.partial(logits_of, model))
    make_optimizer = instantiate(cfg.optimizer, _partial_=True, _convert_="all")
    schedule = {key: value for key, value in cfg.scheduler.items() if key != "_target_"}
    make_scheduler = functools.partial(get_method(cfg.scheduler["_target_"]), total_steps=steps, **schedule)
    return LmModule(
        model,
        make_optimizer,
        make_scheduler,
        format=TokenBatch(data.tokenizer, vocabulary_size(cfg.model, config)),
        # The first token of a window is predicted by nothing.
        labels_per_batch=cfg.data.batch_size * (context_length(cfg.model, config) - 1),
        compiled=picks.compile,
        elsewhere=beneath(cfg.model, model),
    )
