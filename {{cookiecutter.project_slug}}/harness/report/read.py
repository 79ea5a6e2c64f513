"""Find the runs that a path names, and read each for a report."""

import logging
from pathlib import Path

from omegaconf import OmegaConf

from harness.config.secrets import masked
from harness.errors import UserError
from harness.report.record import Data, RunRecord
from harness.report.symptoms import first_line
from harness.run import folder as run_folder
from harness.telemetry import events

log = logging.getLogger(__name__)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs that a path names: a run is one, a folder of runs (a sweep's, or runs/) all that have events.

    Raises UserError where there is none.
    """
    if events.log_path(folder).is_file():
        return [folder]
    found = sorted(events.log_path(child).parents[1] for child in folder.glob("*") if events.log_path(child).is_file())
    if found:
        return found
    what = f"{folder} has no event log ({events.FOLDER}/{events.log_path(folder).name}), and no folder in it has one."
    raise UserError(
        what if folder.is_dir() else f"{folder} is not a folder.",
        cure="Name the folder of a run below runs/; callbacks.debug_log.enabled=true records it.",
    )


def read(folder: Path) -> RunRecord:
    """Read the run in `folder`. Raises UserError where there is none, or none with an event log."""
    path = events.log_path(folder)
    runs_in(folder)
    record = RunRecord(folder, run_folder.read(folder), masked(_config(folder)))
    for event in events.current(path):
        record.add(event)
    if not record.counts:
        raise UserError(
            f"The event log {path} is empty.", cure="Was the run killed in its first seconds? Start it again."
        )
    return record


def _config(folder: Path) -> Data:
    """Return the config of a run: nothing, and a warning, where it is damaged."""
    path = folder / run_folder.CONFIG
    if not path.exists():
        return {}
    try:
        if isinstance(found := OmegaConf.to_container(run_folder.config(folder)), dict):
            return {str(key): value for key, value in found.items()}
        reason = "it is not a mapping"
    except Exception as error:  # what a damaged file makes YAML and OmegaConf raise is theirs to choose
        reason = first_line(error) or type(error).__name__
    log.warning("%s cannot be read (%s): the report is without it.", path, reason)
    return {}
