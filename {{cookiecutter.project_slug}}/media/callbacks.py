"""What a run with media says besides: its parts at the start, whether it looks and listens, what it answers."""

import logging
import warnings
from itertools import islice
from typing import Any

from lightning.pytorch import Callback, Trainer

from harness.callbacks.at_validation import AtValidation
from harness.callbacks.samples import PeriodicSamples
from media.answers import answered
from media.kinds import NAMES
from media.model import table
from media.shown import answer

log = logging.getLogger(__name__)


class Parts(Callback):
    """Prints the parts of the model: what each is, where its weights are from, whether it is trained."""

    reads_metrics = False

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Lightning's, of what is frozen: the table says it.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
        if trainer.is_global_zero:
            log.info("The parts of the model:\n%s", "\n".join(f"  {line}" for line in table(pl_module.network.parts())))


class Perception(AtValidation):
    """Scores `documents` held-out ones of each kind at each validation: val/KIND/own, other and right, as
    media/answers.py says."""

    def __init__(self, documents: int = 64) -> None:
        super().__init__()
        self.documents = documents

    def measure(self, trainer: Trainer, module: Any) -> dict[str, float]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        found: dict[str, float] = {}
        for kind in module.model.plans:
            rows = list(islice(data.held_out(kind), self.documents))
            if len(rows) < 2:
                log.info("Fewer than two held-out documents have %s: whether it is used is not known.", NAMES[kind][1])
                continue
            score = answered(module, rows, kind, module.device)
            log.info("Step %d, %s: %s", trainer.global_step, kind, score)
            found |= {f"{kind}/{name}": getattr(score, name) for name in ("own", "other", "right")}
        return found


class Answers(PeriodicSamples):
    """Answers the first `documents` held-out ones of each kind as often as Periodic says (`when`), beside the truth."""

    def __init__(self, documents: int = 2, max_tokens: int = 48, **when: Any) -> None:
        super().__init__(**when)
        self.documents = documents
        self.how = {"max_tokens": max_tokens, "temperature": 0.0}

    def texts(self, trainer: Any, module: Any) -> dict[str, str]:
        said, data = {}, trainer.datamodule
        for kind in module.model.plans:
            for number, row in enumerate(islice(data.held_out(kind), self.documents)):
                truth, made = answer(module.model, data.tokenizer, row, max_tokens=self.how["max_tokens"])
                said[f"{kind} {number + 1}: {truth}"] = made
        return said
