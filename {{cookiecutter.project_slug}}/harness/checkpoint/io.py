"""Between Lightning's checkpoint dict and a checkpoint: what goes into which file, and counters that need no repair."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import CheckpointIO
from torch import Tensor, nn

from harness.checkpoint import elsewhere, read, shards
from harness.checkpoint.average import keepers
from harness.checkpoint.behind import Behind
from harness.checkpoint.contents import Contents, contents
from harness.checkpoint.finite import training_states
from harness.checkpoint.match import fitted
from harness.checkpoint.moments import NAMES
from harness.checkpoint.snapshot import Snapshot
from harness.checkpoint.tree import join
from harness.checkpoint.write import write
from harness.distributed import is_split
from harness.run.facts import RunFacts
from harness.telemetry import events

log = logging.getLogger(__name__)

# Where Lightning keeps the weights that training goes on with, when `state_dict` holds their average.
AVERAGED = "current_model_state"


@dataclass(frozen=True)
class Order:
    """What `trainer.save_checkpoint(storage_options=…)` may say besides. `about`: further entries of the manifest.

    `behind`: return when everything is copied, and write while training goes on; not where ranks write together, for
    their words to each other would mix with those of training. `then`: what to do behind training once it is written.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    behind: bool = False
    then: Callable[[read.Checkpoint], None] = lambda checkpoint: None


class DurableIO(CheckpointIO):
    """A plugin for Lightning's Trainer: `trainer.save_checkpoint` and `trainer.fit(ckpt_path=FOLDER)` then work on
    checkpoints. `facts` go into the manifests of the run.

    `model.safetensors` holds the weights of `module.network` under that network's own names; of a module that is no
    GuardedModule those of `module.model`, if there is one, else of all of it. What `module.weights_elsewhere` names is
    left out, and stays as the module has it when a checkpoint is loaded.

    A disk that refuses a checkpoint is noted in `failure`, not raised: the other ranks wait for this one behind the
    save. What is written behind training is in `checkpoint`, or in `failure`, after `wait`.
    """

    def __init__(self, facts: RunFacts, module: LightningModule) -> None:
        self.facts = facts
        self.module = module
        self.checkpoint: read.Checkpoint | None = None
        self.failure: OSError | None = None
        self.seconds = 0.0  # that the last one took to write
        self.snapshot = Snapshot()
        self.behind = Behind()
        self._said = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Checkpoint beside `path`, as the Order in `storage_options` says."""
        self.behind.wait()
        order, folder = storage_options or Order(), Path(path).parent
        made = self._contents(checkpoint, order.about)
        copied = self._copied(made) if order.behind and not made.sharded else None

        def write_and_then() -> None:
            if copied and (written := self._write(folder, copied)):
                order.then(written)

        if copied:
            self.behind.start(write_and_then)
        elif (written := self._write(folder, made)) and made.leads:
            self.behind.start(partial(order.then, written))

    def _contents(self, checkpoint: dict[str, Any], about: Mapping[str, Any]) -> Contents:
        prefix, beneath = stored_model(self.module)[0], elsewhere.of(self.module)
        state = elsewhere.stored(checkpoint.pop("state_dict"), beneath, prefix)
        if AVERAGED in checkpoint:
            checkpoint[AVERAGED] = elsewhere.stored(checkpoint[AVERAGED], beneath, prefix)
        rng, files = checkpoint.pop("rng", ()), checkpoint.pop("files", {})
        about = {**checkpoint.pop("about", {}), **about, **({elsewhere.ENTRY: beneath.entry} if beneath else {})}
        others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
        return contents(
            step=checkpoint["global_step"],
            weights={name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)},
            trainer={**checkpoint, "state_dict": others},
            rng=rng,
            about=about,
            extra=files,
            states=training_states(self.module, self.module.trainer.optimizers),
        )

    def _copied(self, made: Contents) -> Contents | None:
        try:
            return self.snapshot.take(made)
        except (RuntimeError, MemoryError) as error:  # torch has a kind of its own for each allocator
            if not self._said:
                self._said = True
                log.warning("There is no memory for a copy: training waits while checkpoints are written (%s).", error)
            return None

    def _write(self, folder: Path, made: Contents) -> read.Checkpoint | None:
        began, self.checkpoint, self.failure = time.perf_counter(), None, None
        self.snapshot.finish()
        try:
            events.sync()  # what happened before it survives together with it
            self.checkpoint = write(folder, made)
        except OSError as error:
            self.failure = error
        self.seconds = time.perf_counter() - began
        return self.checkpoint

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        self.behind.wait()
        checkpoint = read.open_checkpoint(Path(path))
        prefix, model = stored_model(self.module)
        beneath, state_now = elsewhere.of(self.module), model.state_dict()
        if any(is_split(tensor) for tensor in state_now.values()):
            elsewhere.refuse_others(checkpoint, beneath)
            weights = state_now | own_weights(checkpoint, elsewhere.stored(state_now, beneath))
            trainer = own_trainer(checkpoint, dict(self.module.named_parameters()))
        else:
            trainer = read.load_trainer(checkpoint)
            weights = elsewhere.whole_state(checkpoint, model, beneath)
        state = trainer["state_dict"] | {f"{prefix}{name}": tensor for name, tensor in weights.items()}
        if AVERAGED in trainer:
            trainer[AVERAGED] = {**state, **trainer[AVERAGED]}
        return {**trainer, "state_dict": state, "source": checkpoint}

    def remove_checkpoint(self, path: str | Path) -> None:
        raise NotImplementedError("harness.checkpoint.keep decides what is removed.")

    def teardown(self) -> None:
        self.behind.close()
        self.snapshot = Snapshot()  # gives its memory back


def stored_model(module: nn.Module) -> tuple[str, nn.Module]:
    """Return the model whose weights are a checkpoint's `model.safetensors`, after the prefix of its names."""
    names = {part: f"{name}." for name, part in module.named_modules() if name}
    for model in (getattr(module, "network", None), getattr(module, "model", None)):
        if isinstance(model, nn.Module) and model in names:
            return names[model], model
    return "", module


def own_weights(checkpoint: read.Checkpoint, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what this rank holds of the weights, split as `wanted` is, whatever number of ranks wrote them."""
    files = checkpoint.holding(read.WEIGHTS)
    stored = shards.described(files)
    names = {id(tensor): name for name, tensor in stored.items()}
    ties = {name: stored[kept] for name, kept in (checkpoint.manifest.get("aliases") or {}).items()}
    places = {name: names[id(t)] for name, t in fitted(stored | ties, wanted, source=checkpoint.path).items()}
    loaded = {place: torch.empty_like(wanted[name]) for name, place in places.items()}
    shards.load(files, loaded)
    return {name: loaded[place] for name, place in places.items()}


def own_trainer(checkpoint: read.Checkpoint, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the trainer's state with what this rank holds of the moments, split as their parameters are."""
    tree, files = read.load_tree(checkpoint), checkpoint.holding(read.TRAINER_TENSORS)
    stored = shards.described(files)
    split: dict[str, Tensor] = {}
    for optimizer in tree.get("optimizer_states", ()):
        for group in optimizer["param_groups"]:
            for name, number in zip(group.get(NAMES, ()), group["params"], strict=False):
                parameter = parameters.get(name)
                for moment in optimizer["state"].get(number, {}).values():
                    place = moment.get("__tensor__") if isinstance(moment, dict) else None
                    if parameter is not None and place and stored[place].shape == parameter.shape:
                        split[place] = torch.empty_like(parameter.detach(), dtype=stored[place].dtype)
    tensors = {n: split[n] if n in split else torch.empty_like(t, device="cpu") for n, t in stored.items()}
    shards.load(files, tensors)
    whole: dict[str, Any] = join(tree, tensors)
    return whole


def run_facts(trainer: Trainer) -> RunFacts:
    """Return what the entry said about the run; nothing for a Trainer without DurableIO."""
    plugin = trainer.strategy.checkpoint_io
    return plugin.facts if isinstance(plugin, DurableIO) else RunFacts()


def wait_for_writing(trainer: Trainer) -> None:
    """Return when the checkpoint that is written behind training is there, or was refused."""
    plugin = trainer.strategy.checkpoint_io
    if isinstance(plugin, DurableIO):
        plugin.behind.wait()


def restore_weights(trainer: Trainer, module: LightningModule, checkpoint: read.Checkpoint) -> dict[str, Any]:
    """Put a checkpoint's weights, and averages of them, into a training that is under way. Returns all of its state."""
    state: dict[str, Any] = trainer.strategy.checkpoint_io.load_checkpoint(checkpoint.path)
    module.load_state_dict(state["state_dict"])
    for keeper in keepers(trainer):  # what was trained on is not the average
        keeper.on_load_checkpoint(trainer, module, state)
    return state


def at_boundary(fit_loop: dict[str, Any], *, validation_pending: bool) -> None:
    """Rewrite the counters of Lightning's fit loop to say: this step is over, the next batch has not begun.

    Lightning repairs counters that were saved in the middle of things, by guessing from which hook (`RestartStage`). It
    guesses right for a save in `on_train_batch_end`, so that is what the counters imitate: `completed` is one behind.
    It guesses wrong at the end of an epoch (counted twice), where `max_steps` ends training in the middle of one (the
    rest becomes an epoch of its own), and in a validation (left out).
    """
    batches, epochs = fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_progress"]
    # Between the first hook of a batch and its end, `ready` and `is_last_batch` speak of it, else of the one before.
    begun = batches["current"]["ready"] > batches["current"]["processed"]
    epoch_over = batches["is_last_batch"] and not begun
    epoch = epochs["current"]["ready"] - 1 + epoch_over
    inside = 0 if epoch_over else batches["current"]["processed"]
    epochs["total"] = epochs["current"] = _counters(epoch, epoch + 1)
    total = batches["total"]["processed"]
    batches["total"] = _counters(total, total) | {"completed": total - 1}
    batches["current"] = _counters(inside, inside) | {"completed": inside - 1}
    batches["is_last_batch"] = False
    # Lightning adds one on loading, and another one after a validation that it makes up for.
    steps = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - 1 - validation_pending
    # With a batch begun and not done it looks like a validation that was not finished: Lightning starts that again.
    validation = {"total": _counters(0, int(validation_pending)), "current": _counters(0, 0), "is_last_batch": False}
    fit_loop["epoch_loop.val_loop.batch_progress"] = validation


def _counters(done: int, begun: int) -> dict[str, int]:
    return {"ready": begun, "started": begun, "processed": done, "completed": done}
