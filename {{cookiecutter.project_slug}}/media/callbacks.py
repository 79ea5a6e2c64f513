"""What a run with media says besides: its parts at the start, whether it looks and listens, what it answers."""

import logging
import warnings
from itertools import islice
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from harness.callbacks.at_validation import AtValidation
from harness.callbacks.samples import PeriodicSamples
from lm.batch import NO_LABEL
from lm.data.tokenizer import end_of_text
from lm.inference.generate import pieces, sample
from media.answers import answered
from media.kinds import NAMES
from media.model import table
from media.shown import Shown

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
        data, found = trainer.datamodule, {}  # type: ignore[attr-defined]  # set by Lightning
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


def answer(model: Any, tokenizer: Any, row: dict[str, Tensor], *, max_tokens: int) -> tuple[str, str]:
    """Return the answer of a row of one document, and what the model says instead, taking the most likely token."""
    counted = (row["labels"] != NO_LABEL).nonzero().flatten().tolist()
    start = counted[0] if counted else len(row["labels"])
    truth = tokenizer.decode(row["labels"][counted].tolist())
    shown, context = Shown(model, row), len(row["input_ids"])
    prompt, training = row["input_ids"][:start].tolist(), [part for part in model.modules() if part.training]
    model.eval()
    try:
        room = {"max_tokens": min(max_tokens, context - start), "context": context + 1, "temperature": 0.0}
        ids = sample(shown, prompt, stop=end_of_text(tokenizer, model), **room)
        return truth, "".join(pieces(tokenizer, ids))
    finally:
        for part in training:
            part.training = True
