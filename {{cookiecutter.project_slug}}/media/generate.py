"""What a model says of pictures and sounds: python generate.py RUN --image FILE --audio FILE --prompt TEXT. Without
files it is text: lm/inference/generate.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.console import pieces, say, tell
from harness.errors import UserError
from lm.data.tokenizer import end_of_text
from lm.inference import generate as text
from lm.inference.load import Trained, load
from media.encoders import plans
from media.kinds import NAMES, placeholder
from media.processors import processors
from media.rows import Slots
from media.shown import Shown


def generate(
    path: str,
    prompt: str | None,
    image: Sequence[str] = (),
    audio: Sequence[str] = (),
    *,
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    prompts: str | None = None,
    chat: bool = False,
    trust: Sequence[str] = (),
) -> None:
    """Print `prompt` and its continuation, after the files `image` and `audio`, in that order."""
    how: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
    if not image and not audio:
        text.generate(path, prompt, prompts=prompts, chat=chat, trust=trust, **how)
        return
    if prompts is not None or chat:
        raise UserError("--image and --audio are shown before one --prompt.", cure="Leave --prompts and --chat out.")
    trained = load(path, trust=trust)
    prompt = trained.cfg.data.get("prompt", "") if prompt is None else prompt
    row, ids = shown(trained, {"image": image, "audio": audio}, prompt)
    how |= {"top_k": top_k or None, "max_tokens": min(max_tokens, trained.context - len(ids))}
    stop = end_of_text(trained.tokenizer, trained.model)
    tokens = text.sample(Shown(trained.model, row), ids, context=trained.context + 1, stop=stop, **how)
    tell(prompt, pieces(trained.tokenizer.decode, tokens))


def shown(trained: Trained, files: Mapping[str, Sequence[str]], prompt: str) -> tuple[dict[str, Tensor], list[int]]:
    """Return a row of the files, and the tokens of files and prompt: of each file its placeholder as often as its
    encoder puts out. Raises UserError for what cannot be read, seen or heard, or does not fit."""
    encoders = trained.cfg.get("encoders") or {}
    known, tokenizer = plans(encoders), trained.tokenizer
    if unknown := [kind for kind, paths in files.items() if paths and kind not in known]:
        raise UserError(
            f"{trained.folder} was trained without an encoder of {NAMES[unknown[0]][1]}.",
            cure=f"Take a run that has one (encoders={unknown[0]}).",
        )
    end = end_of_text(tokenizer, trained.model) or 0
    made, ids = processors({kind: encoders[kind] for kind in known}), list[int]()
    row: dict[str, Tensor] = {}
    for kind, plan in known.items():
        slots, media, at = Slots(len(files[kind]), plan.outputs, made[kind]), [], [-1] * len(ids)
        for number, path in enumerate(files[kind]):
            stored, heard, facts = _made(made[kind], path)
            say(f"  {path}: {', '.join(f'{name} {value}' for name, value in facts.items() if value)}")
            count = int(slots.positions(np.array([heard]))[0])
            ids += [placeholder(tokenizer, kind, end)] * count
            at += range(number * plan.outputs, number * plan.outputs + count)
            media.append(torch.from_numpy(made[kind].restored(stored).copy()))
        if media:
            row |= {kind: torch.stack(media), f"{kind}_at": torch.tensor(at)}
    ids += tokenizer.encode(prompt, add_special_tokens=False).ids
    if len(ids) >= trained.context:
        raise UserError(
            f"The files and the prompt take {len(ids):,} tokens, and the context has {trained.context:,}.",
            cure="Show less, or ask for less.",
        )
    return row, ids


def _made(processor: Any, path: str) -> Any:
    try:
        return processor(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} {error}.") from error
