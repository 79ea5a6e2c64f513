"""Train again up to the step of a bundle, exactly as the run did, in a folder of its own."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf, open_dict

from harness import fastest
from harness.checkpoint.ledger import read_ledger, usable
from harness.checkpoint.read import Checkpoint
from harness.config.global_batch import AUTO
from harness.config.trust import refuse_untrusted
from harness.console import quiet
from harness.errors import UserError
from harness.files import write_whole
from harness.nan import bundle as bundles
from harness.ranks import rank
from harness.replay.diagnosis import Diagnosis, show
from harness.replay.watch import Reached
from harness.run import diary
from harness.run import folder as run_folder
from harness.run.received import confine
from harness.sharding import is_sharded

# Of our own callbacks those that training depends on. The user's own all stay: they may be part of what happened.
NEEDED = ("checkpoint", "nan_guard", "progress")
SCRATCH = "HARNESS_REPLAY_SCRATCH"  # an environment variable


def rerun(bundle: Path, train: Callable[[DictConfig], Any], trust: Sequence[str] = ()) -> Diagnosis:
    """Replay, print what was found, and write it to `diagnosis.json` in the bundle."""
    facts = bundles.read_facts(bundle)
    folder = bundle.parent.parent
    cfg = run_folder.config(bundle)
    if cfg.trainer.get("num_nodes", 1) > 1:
        raise UserError(
            "This run had several nodes, and a replay has one: the ranks of the others would be missing.",
            cure=f"What each rank knew is in {bundle.as_posix()}: incident*.json, text-rank*.txt.",
        )
    if is_sharded(cfg.trainer):
        raise UserError(
            "This run was sharded (trainer=fsdp), and a replay needs whole weights in one process.",
            cure=f"What each rank knew is in {bundle.as_posix()}: incident*.json, text-rank*.txt.",
        )
    checkpoint = starting_point(folder, facts)
    if rank() == 0:
        after = f"checkpoint {checkpoint.path.name}" if checkpoint else "the beginning"
        print(f"Step {facts['step']} of {folder.as_posix()}, from {after}.", flush=True)
    with quiet(), scratch_folder() as scratch:
        cfg = again(cfg, bundle, scratch, checkpoint)
        compute_as(folder, Path(cfg.run.dir))
        if OmegaConf.select(cfg, "data.batch_size") == AUTO:  # what was found then
            cfg.data.batch_size = facts["micro_batches"][0]["rows"]
        own = [*trust, "harness.replay.watch.Watch"]
        refuse_untrusted(cfg, [str(key) for key in cfg if key != "env"], trusted=own, where=folder.as_posix())
        confine(cfg, ("model", "data", "start_from"), folder, trusted=trust)
        try:
            train(cfg)
        except Reached as reached:
            diagnosis = reached.diagnosis
        else:
            raise UserError(f"The run ended before step {facts['step']}.", cure="Is its config.yaml the one it had?")
    if rank() == 0:
        text = json.dumps(bundles.strict(diagnosis.plain()), indent=1, ensure_ascii=False)
        write_whole(bundle / "diagnosis.json", text + "\n")
        show(diagnosis, bundle)
    return diagnosis


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Give every rank the same new folder, which is removed at the end. Lightning starts the other ranks as processes
    with this command line, which inherit what the first one leaves in the environment."""
    if rank():
        if SCRATCH not in os.environ:
            raise UserError(
                "A replay starts the ranks of its run by itself.",
                cure="The same command without torchrun or srun, on one node with as many devices as the run had.",
            )
        yield Path(os.environ[SCRATCH])
        return
    with tempfile.TemporaryDirectory(prefix="replay-", ignore_cleanup_errors=True) as folder:
        os.environ[SCRATCH] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[SCRATCH]


def starting_point(folder: Path, facts: dict[str, Any]) -> Checkpoint | None:
    """Return the newest checkpoint before the step, None for the beginning.

    Raises UserError where a rollback lies in between: what it went back to may be gone.
    """
    before = [checkpoint for checkpoint in usable(folder) if checkpoint.step < facts["step"]]
    checkpoint = before[-1] if before else None
    start = checkpoint.step if checkpoint else 0
    for entry in read_ledger(folder):
        if start < entry.step < facts["step"]:
            raise UserError(
                f"Step {facts['step']} lies after the rollback at step {entry.step}, and the checkpoint that was made "
                "then is gone.",
                cure="Checkpoints of the newest few bundles are kept; this one is too old to be replayed.",
            )
    return checkpoint


def compute_as(folder: Path, replayed: Path) -> None:
    """Let a replay take the precision and the kernels that the run in `folder` had settled for."""
    if rank() == 0 and (settled := fastest.kept(run_folder.read(folder))):
        replayed.mkdir(parents=True, exist_ok=True)
        write_whole(replayed / diary.NAME, diary.text(diary.new(replayed, None) | settled))


def again(cfg: DictConfig, bundle: Path, scratch: Path, checkpoint: Checkpoint | None) -> DictConfig:
    """Return the run's config without what only writes, and with the watcher."""
    callbacks = {name: entry for name, entry in cfg.callbacks.items() if _needed(str(name), entry)}
    quiet: dict[str, Any] = {
        "run": {"root": scratch.as_posix(), "name": "replay", "dir": (scratch / "replay").as_posix()},
        "resume": "auto",
        "resume_from": checkpoint.path.as_posix() if checkpoint else None,
        "callbacks": {},
        # Validation leaves the generators as they were, so training does not miss it.
        "trainer": {"limit_val_batches": 0, "detect_anomaly": False, "max_time": None, "profiler": None},
    }
    if "checkpoint" in callbacks:
        quiet["callbacks"]["checkpoint"] = {"every_n_steps": None, "every_minutes": None}
    if "nan_guard" in callbacks:
        quiet["callbacks"]["nan_guard"] = {"max_bundles": 0}
    # Last, so that it sees batches as the other callbacks leave them.
    quiet["callbacks"]["replay"] = {"_target_": "harness.replay.watch.Watch", "bundle": bundle.as_posix()}
    with open_dict(cfg):
        cfg.callbacks, cfg.logger = callbacks, {}
        return cast(DictConfig, OmegaConf.merge(cfg, quiet))


def _needed(name: str, entry: Any) -> bool:
    """Say whether a callback is part of what happens: those of our own that only watch or write are not."""
    ours = str((entry or {}).get("_target_")).startswith(("harness.callbacks.", "lm.inference."))
    return entry is not None and (name in NEEDED or not ours)
