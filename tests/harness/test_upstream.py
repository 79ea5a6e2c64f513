"""Faults of Lightning 2.6 that we work around. A test here fails once Lightning has mended one: then the workaround,
named in each test, can go."""

import csv
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.utilities import cloud_io
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, RandomSampler

pytestmark = pytest.mark.filterwarnings("ignore")


class Line(LightningModule):
    """One weight; remembers which samples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []
        self.asks_for_steps = False

    def training_step(self, batch: torch.Tensor, batch_index: int) -> torch.Tensor:
        self.seen += batch.tolist()
        return (self.weight * batch.float()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.asks_for_steps:
            assert self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Sampler(RandomSampler):
    """Shuffles by epoch, as DistributedSampler does, and can be asked where it is."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class Stateful(DataLoader):
    """A loader with a state, by Lightning's protocol."""

    loaded = False

    def state_dict(self) -> dict[str, int]:
        return {"position": 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.loaded = True


def trainer(folder: Path, **more: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "use_distributed_sampler": False}
    return Trainer(default_root_dir=folder, **{**quiet, **more})


def loader(kind: type[DataLoader] = DataLoader) -> DataLoader:
    return kind(range(8), batch_size=2, sampler=Sampler(range(8)))


def checkpoint_after(folder: Path, steps: int) -> Path:
    first = trainer(folder, max_steps=steps)
    first.fit(Line(), loader())
    first.save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt"


def test_21938_a_resumed_epoch_has_the_order_of_epoch_0(tmp_path) -> None:
    """Workaround: harness.data.order has no set_epoch and computes the order from the cursor."""
    straight = Line()
    trainer(tmp_path, max_steps=8).fit(straight, loader())
    path = checkpoint_after(tmp_path, 4)
    resumed = Line()
    trainer(tmp_path, max_steps=8).fit(resumed, loader(), ckpt_path=path, weights_only=True)
    assert resumed.seen != straight.seen[8:]


def test_20550_asking_for_the_number_of_steps_loses_the_state_of_the_loader(tmp_path) -> None:
    """Workaround: lm.fit.total_steps counts by itself; the cursor is the data module's."""
    every_batch = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    first = trainer(tmp_path, max_epochs=1, callbacks=[every_batch], enable_checkpointing=True)
    first.fit(Line(), loader(Stateful))
    loaded = {}
    for asks in (False, True):
        module, data = Line(), loader(Stateful)
        module.asks_for_steps = asks
        again = trainer(tmp_path, max_epochs=1)
        again.fit(module, data, ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
        loaded[asks] = data.loaded
    assert loaded == {False: True, True: False}


def test_21800_a_refused_save_is_passed_over_in_silence(tmp_path, monkeypatch) -> None:
    """Workaround: harness.checkpoint.write raises, and harness.callbacks.checkpoint is loud."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, "open", refuse)
    cloud_io._atomic_save({"a": 1}, tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_19916_sigterm_ends_with_0_and_saves_nothing(tmp_path) -> None:
    """Workaround: harness.run.signals and harness.callbacks.signals."""
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_upstream import Line, loader, trainer
        from lightning.pytorch import Callback
        class Send(Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 2: os.kill(os.getpid(), signal.SIGTERM)
        trainer({str(tmp_path)!r}, max_steps=6, callbacks=[Send()], enable_checkpointing=True).fit(Line(), loader())
    """
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_19446_the_csv_logger_deletes_what_the_first_attempt_wrote(tmp_path) -> None:
    """Workaround: harness.telemetry.loggers.CsvLogger."""
    for step in (0, 1):
        logger = CSVLogger(tmp_path, name="", version="")
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1"]


def test_7621_model_checkpoint_cannot_have_steps_and_minutes(tmp_path) -> None:
    """Workaround: harness.callbacks.checkpoint decides by both."""
    from datetime import timedelta

    with pytest.raises(MisconfigurationException, match="mutually exclusive"):
        ModelCheckpoint(tmp_path, every_n_train_steps=1, train_time_interval=timedelta(minutes=2))


def test_2534_model_checkpoint_cannot_keep_the_newest_three(tmp_path) -> None:
    """Workaround: harness.checkpoint.keep."""
    with pytest.raises(MisconfigurationException, match="save_top_k"):
        ModelCheckpoint(tmp_path, save_top_k=3, monitor=None)


def test_a_save_at_max_steps_in_the_middle_of_an_epoch_counts_that_epoch_as_done(tmp_path) -> None:
    """Workaround: harness.checkpoint.io.at_boundary rewrites the counters."""
    path = checkpoint_after(tmp_path, 2)
    progress = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]["current"]
    assert progress["completed"] == 1  # 2 of 4 batches are done


def test_the_counters_that_we_rewrite_are_there(tmp_path) -> None:
    """harness.checkpoint.io.at_boundary relies on these names, which are Lightning's own business."""
    state = _FitLoop(trainer(tmp_path)).state_dict()
    for name in ("epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress", "epoch_progress"):
        assert set(state[name]["current"]) == {"ready", "started", "processed", "completed"}
    assert "_batches_that_stepped" in state["epoch_loop.state_dict"]
    assert state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"] == 0


def test_torchmetrics_imports_scipy_signal_for_one_old_name() -> None:
    """Once it does not, harness/later.py can go."""
    pytest.importorskip("scipy.signal", reason="some extras bring scipy; without it there is nothing to spare")
    look = "import sys, lightning.pytorch; sys.exit('scipy.stats' in sys.modules)"
    spared = f"from harness import later; later.spare_scipy(); {look}"
    used = "import scipy.signal as s; assert callable(s.resample) and callable(s.hamming); import scipy.signal.windows"
    assert [subprocess.run([sys.executable, "-c", code], check=False).returncode for code in (look, spared)] == [1, 0]
    subprocess.run([sys.executable, "-c", f"from harness import later; later.spare_scipy(); {used}"], check=True)
