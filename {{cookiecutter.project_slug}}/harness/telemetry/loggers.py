"""Metric loggers that go on where the run goes on: no row is lost, none comes twice."""

import csv
import functools
import io
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from harness.config.secrets import hidden_in_report, masked
from harness.errors import UserError
from harness.files import recovered, write_whole
from harness.telemetry.append import AppendOnlyFile

log = logging.getLogger(__name__)


def build_loggers(group: DictConfig, *, run_id: str, step: int, validated: bool = True) -> list[Logger]:
    """Build every logger of the config for a run that goes on after `step` optimizer steps (0: from the beginning).

    What was logged after that step is about to be logged again, so it is taken back; so is a validation of the step
    itself where the checkpoint was not `validated` yet.
    """
    entries = [entry for entry in group.values() if entry is not None]
    built = [instantiate(entry, **_going_on(entry, run_id, step, validated), _convert_="all") for entry in entries]
    for logger in built:
        logger.log_hyperparams = _masking(logger.log_hyperparams)
    return built


def _masking(log_hyperparams: Callable[..., None]) -> Callable[..., None]:
    """Let no logger, whoever wrote it, keep a secret among the hyperparameters."""

    @functools.wraps(log_hyperparams)
    def masking(params: Any, *args: Any, **kwargs: Any) -> None:
        plain = vars(params) if isinstance(params, Namespace) else dict(params or {})
        log_hyperparams(masked(plain), *args, **kwargs)

    return masking


def count_from_one(trainer: Trainer) -> None:
    """Have every logger of `trainer` name the optimizer step as everything else does: the first one is 1.

    Lightning hands loggers the number of steps that were complete before, for what it logs in a step and for a
    validation inside of training, and the number after it for a validation by itself.
    """
    for logger in trainer.loggers:
        logger.log_metrics = functools.partial(_at_optimizer_step, trainer, logger.log_metrics)  # type: ignore[method-assign]


def _at_optimizer_step(
    trainer: Trainer, write: Callable[..., None], metrics: Mapping[str, float], step: int | None = None
) -> None:
    of_lightning = step is None or step == trainer.fit_loop.epoch_loop._batches_that_stepped
    write(metrics, trainer.global_step if of_lightning else step)


def _going_on(entry: DictConfig, run_id: str, step: int, validated: bool) -> dict[str, Any]:
    match entry["_target_"].rpartition(".")[2]:
        case "CsvLogger":
            return {"after_step": step, "validated": validated}
        case "TensorBoard" | "TensorBoardLogger":
            return {"purge_step": step + 1} if step else {}
        case "WandbLogger":
            _refuse_to_ask_nobody(entry)
            return {"id": run_id, "resume": "allow", **_command_line_kept_out()}
    return {}


def _command_line_kept_out() -> dict[str, Any]:
    """wandb uploads the command line as it was typed; where there is a secret in it, it gets none of it."""
    if [*map(hidden_in_report, sys.argv)] == sys.argv:
        return {}
    import wandb

    return {"settings": wandb.Settings(x_disable_meta=True)}


def refuse_unknown_accounts(group: DictConfig) -> None:
    """Raise UserError for a logger that could only ask, before anything is prepared."""
    for entry in group.values():
        if entry is not None and str(entry.get("_target_")).endswith(".WandbLogger"):
            _refuse_to_ask_nobody(entry)


def _refuse_to_ask_nobody(entry: DictConfig) -> None:
    """Without an account wandb asks for one; where nobody can answer, it raises from deep inside instead."""
    offline = entry.get("offline") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
    if not offline and not sys.stdin.isatty() and not _has_account():
        raise UserError(
            "logger=wandb knows no account on this machine.",
            cure="Type `wandb login`, or stay offline with logger.wandb.offline=true; `wandb sync` uploads later.",
        )


def _has_account() -> bool:
    """Look where `wandb login` puts its key, as wandb does: the environment, then the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    home = Path(os.environ.get("HOME") or Path.home())
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [home / ".netrc", home / "_netrc"]
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    return any(host in file.read_text(encoding="utf-8") for file in files if file.is_file())


class CsvLogger(Logger):
    """Appends a row of metrics to `metrics.csv`, flushed at once, so that a killed process has lost none.

    Lightning's CSVLogger deletes the file of an earlier attempt (Lightning #19446), and rewrites it in place whenever a
    metric appears for the first time. Rows after `after_step` are removed: they will come again.
    So will the validation of that step, unless its checkpoint was `validated`.
    """

    def __init__(self, save_dir: str, *, after_step: int = 0, validated: bool = True) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.after_step = after_step
        self.validated = validated
        self._columns: list[str] | None = None
        self._rows: list[Mapping[str, Any]] = []  # not yet handed on; more than one only while the disk refuses
        self._lines = AppendOnlyFile(self.path)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append({"step": 0 if step is None else step, **metrics})
        try:
            while self._rows:
                if self._columns is None or not self._rows[0].keys() <= set(self._columns):
                    self._lines.write()
                    if self._lines.waiting:  # of the old columns
                        return
                    self._rewrite(self._rows[0])
                self._lines.write(self._line(self._rows.pop(0)).encode())
        except OSError as error:
            self._lines.refused(error)

    def _line(self, row: Mapping[str, Any]) -> str:
        assert self._columns is not None
        line = io.StringIO(newline="")
        csv.DictWriter(line, self._columns).writerow(row)
        return line.getvalue()

    def _rewrite(self, row: Mapping[str, Any]) -> None:
        """Write the file anew, beside and then in its place, with the columns of `row` besides its own."""
        rows = self._kept()
        names = {name for kept in rows for name in kept} | row.keys()
        columns = ["step", *sorted(names - {"step"})]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(rows)
        write_whole(self.path, table.getvalue())
        self._columns = columns

    def _kept(self) -> list[dict[str, str]]:
        """Return the rows up to `after_step`; later rewrites keep all."""
        rows = recovered(self.path, rows_of) or []
        return rows if self._columns else [row for row in rows if not self._comes_again(row)]

    def _comes_again(self, row: dict[str, str]) -> bool:
        step = int(row["step"])
        validation = any(value for name, value in row.items() if name.startswith("val/"))
        return step > self.after_step or (step == self.after_step and validation and not self.validated)


def rows_of(text: str) -> list[dict[str, str]]:
    """Return the rows of a table of metrics. A row that a full disk cut short is left out. Raises ValueError."""
    table = csv.DictReader(io.StringIO(text, newline=""))
    if "step" not in (table.fieldnames or ["step"]):
        raise ValueError("it has no column of steps")
    return [row for row in table if None not in row and None not in row.values() and row["step"].isdecimal()]


def log_texts(loggers: Iterable[Logger], texts: Mapping[str, str], step: int, *, key: str) -> None:
    """Show texts, by what they answer, in the loggers that can: TensorBoard and wandb."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            for prompt, text in texts.items():
                logger.log_text(f"{key}/{prompt}", f"```\n{text}\n```", step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(key, columns=["prompt", "text"], data=[*map(list, texts.items())], step=step)


class TensorBoard(TensorBoardLogger):
    """Lightning's, but a disk that refuses its file ends neither the run nor the log: it begins another file, and what
    the first had not written is lost to TensorBoard."""

    _failing = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._attempt(lambda: super(TensorBoard, self).log_metrics(metrics, step))

    def log_text(self, key: str, text: str, step: int) -> None:
        self._attempt(lambda: self.experiment.add_text(key, text, step))

    def save(self) -> None:
        self._attempt(super().save)

    def finalize(self, status: str) -> None:
        self._attempt(lambda: super(TensorBoard, self).finalize(status))

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError) as error:
            # Lightning makes every error of log_metrics a ValueError about the type of the value.
            if not isinstance(error, OSError) and not isinstance(error.__cause__, OSError):
                raise
            self._experiment = None
            if not self._failing:
                self._failing = True
                log.warning("Cannot write TensorBoard's file (%s): training goes on.", error.__cause__ or error)
