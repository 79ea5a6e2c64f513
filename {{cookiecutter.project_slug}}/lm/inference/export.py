"""From a run to a folder that transformers loads without this project, proven by loading it back."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from harness.checkpoint.compare import largest_gap
from harness.checkpoint.loaded import in_words
from harness.errors import UserError
from harness.files import appearing
from harness.hub import upload
from harness.report.card import card
from harness.tokenizer_files import copy_tokenizer
from lm.data.sources import StdlibSource
from lm.inference.load import Trained, load
from lm.models.lora import merge, save_adapter
from lm.models.pretrained import quiet

PROMPTS, LONGEST = 64, 128  # texts, and tokens of each
ROUNDING = 1e-4  # of the largest logit: what adding an adapter to weights in float32 may change
FRONT = {"library_name": "transformers", "pipeline_tag": "text-generation"}  # of the card: what a hub asks
KERNEL = "eager"  # which every model has


def export(path: str, out: str, adapter: bool, dtype: str, push: str | None, trust: Sequence[str] = ()) -> None:
    """Write the model of a run to the folder `out`, and say how far its logits are from the run's: not at all."""
    trained = load(path, trust=trust)
    model, cfg, target = trained.model.cpu(), trained.cfg.model, Path(out)
    if not isinstance(model, PreTrainedModel) or not type(model).__module__.startswith("transformers"):
        name = f"{type(model).__module__}.{type(model).__name__}"
        raise UserError(f"transformers has no {name}: only its own models can be loaded without this project.")
    if adapter and not cfg.get("lora"):
        raise UserError(f"{trained.folder} has no adapter: it was not trained with model=lora.", cure="Omit --adapter.")
    size, dtype = in_words(sum(p.numel() for p in model.parameters())), cfg.dtype if adapter else dtype
    what = f"{'the adapter of ' if adapter else ''}{type(model).__name__}, {size} parameters in {dtype}"
    model.set_attn_implementation(KERNEL)
    most = min(LONGEST, trained.context)
    prompts = [trained.tokenizer.encode(text, add_special_tokens=False).ids[:most] for text in texts()]
    with appearing(target) as folder, quiet():
        if adapter:
            save_adapter(cfg, model, folder)
        lines = [] if adapter else write_model(trained, folder, dtype, prompts)
        longest = getattr(model.config, "max_position_embeddings", trained.context)
        copy_tokenizer(trained.checkpoint.path, folder, longest)
        lines.append(f"largest logit difference {compared(trained, folder, dtype, prompts)} over {PROMPTS} prompts")
        facts = {"model": f"{what}, context {trained.context:,}", "checked": "; ".join(lines)}
        text = card(trained.cfg, trained.checkpoint, FRONT, facts, base=cfg.get("pretrained"))
        (folder / "README.md").write_text(text, encoding="utf-8")
    print(f"{target.as_posix()}: {what}, step {trained.step:,} of {trained.folder.as_posix()}", *lines, sep="\n")
    if push:
        upload(target, push)
        print(f"Pushed to {push}")


def write_model(trained: Trained, folder: Path, dtype: str, prompts: list[list[int]]) -> list[str]:
    """Write config, weights and generation config, with an adapter merged; return what there is to say of that."""
    model: Any = trained.model
    lines = []
    if trained.cfg.model.get("lora"):
        before = logits(model, prompts)
        merge(model)
        moved, most = largest_gap(before, logits(model, prompts)), max(float(each.abs().max()) for each in before)
        if not moved <= ROUNDING * max(most, 1):
            raise UserError(f"Merging the adapter moves the logits by up to {moved:.2g}.", cure="Take --adapter.")
        lines.append(f"merging the adapter moved the logits by at most {moved:.2g}, by rounding")
    if model.generation_config._from_model_config:  # made before the tokenizer's ids were known
        model.generation_config = GenerationConfig.from_model_config(model.config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return lines


def compared(trained: Trained, folder: Path, dtype: str, prompts: list[list[int]]) -> float:
    """Return 0.0. Raises UserError where what `folder` loads to has other tokens or logits than the run."""
    trust = bool(trained.cfg.model.get("trust_remote_code"))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    for text, ids in zip(texts(), prompts, strict=True):
        if tokenizer(text, add_special_tokens=False)["input_ids"][: len(ids)] != ids:
            raise UserError(f"AutoTokenizer makes other tokens than the run of {text[:40]!r}…: nothing is written.")
    how = {"dtype": getattr(torch, dtype), "attn_implementation": KERNEL, "trust_remote_code": trust}
    again = AutoModelForCausalLM.from_pretrained(folder, **how).eval()
    again = again.float() if any(folder.glob("adapter_*")) else again
    largest = largest_gap(logits(trained.model, prompts), logits(again, prompts))
    if largest != 0.0:  # nan is not, either
        raise UserError(f"What was written gives other logits, by up to {largest:.3g}: nothing is written.")
    return largest


def texts() -> list[str]:
    """Return beginnings of source files that every Python has."""
    return [document.text[:600] for document in islice(StdlibSource().documents(), PROMPTS)]


@torch.no_grad()
def logits(model: nn.Module, prompts: list[list[int]]) -> list[Tensor]:
    """Return the logits (T, V) of each prompt, in float32."""
    return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float() for ids in prompts]
