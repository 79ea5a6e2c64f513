"""Replay a skipped step and say why: python -m lm replay runs/NAME/nan/step-00000123

Trains again from the checkpoint before it, in a temporary folder, up to that step; the run is not touched. Names the
first module that made something non-finite, and says whether the data, the precision or the weights are to blame. Under
a debugger it stops inside that module.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.cli import add_trust, load
from harness.config.identity import resolved
from harness.config.trust import refuse_untrusted
from harness.errors import UserError
from harness.run import environment
from harness.run import folder as run_folder

TARGET = "harness.replay.command:replay"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="a folder in nan/ of a run, or the run itself: then its last one")
    add_trust(parser)
    return parser


def replay(path: str, train: str, trust: Sequence[str] = ()) -> None:
    """Replay the step of a bundle; `train` is the `module:function` that trains a config."""
    bundle = _bundle(Path(path))
    cfg = run_folder.config(bundle)
    refuse_untrusted(cfg, ["env"], trusted=trust, where=bundle.as_posix())
    environment.apply(resolved(cfg).get("env") or {})  # before torch is imported
    load("harness.replay.rerun:rerun")(bundle, load(train), trust)


def _bundle(path: Path) -> Path:
    """Return the folder that a path names."""
    if (path / "run.json").is_file():
        found = sorted(incident.parent for incident in (path / "nan").glob("step-*/incident.json"))
        if not found:
            raise UserError(f"The run in {path.as_posix()} has skipped no step: there is nothing to replay.")
        return found[-1]
    if not (path / "incident.json").is_file():
        raise UserError(
            f"{path.as_posix()} is not the evidence of a skipped step: it has no incident.json.",
            cure="Such folders are in nan/ of a run, one for each step that was skipped.",
        )
    return path
