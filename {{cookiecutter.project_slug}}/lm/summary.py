"""The last words of a run: how good the model is, what it says, where everything lies, what to type next."""

import math
from pathlib import Path
from typing import Any

from torch import nn

from harness.console import closing, commands
from harness.errors import UserError
from lm.inference.generate import continuation

SAMPLE_TOKENS = 120


def print_summary(folder: Path, model: nn.Module, data: Any, loss: float | None, *, prompt: str) -> None:
    """Print validation loss, a sample (which takes all ranks if weights are sharded; one prints), the next commands."""
    try:
        own = getattr(data, "sample", None)  # of what is more than text
        how = {"max_tokens": SAMPLE_TOKENS, "context": data.context}
        text = own(model) if own else continuation(model, data.tokenizer, prompt, **how)
    except UserError as error:  # weights that are not finite: the run is told to its end all the same
        text = str(error)
    facts = {"the run": f"{folder.as_posix()}/", **commands(folder, prompt)}
    if loss is not None:
        facts = {"validation loss": f"{loss:.4f} nats per token, perplexity {math.exp(min(loss, 700)):.2f}", **facts}
    closing("a sample", text, facts)
