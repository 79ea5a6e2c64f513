"""From a run that sees to a folder that transformers loads: LlavaForConditionalGeneration, proven by loading it back.

A run without encoders is handed over as text: lm/inference/export.py.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers import PreTrainedTokenizerFast as TheirTokenizer

from harness.checkpoint.compare import largest_gap
from harness.checkpoint.loaded import in_words
from harness.checkpoint.resume import locate
from harness.errors import UserError
from harness.files import appearing
from harness.hub import upload
from harness.report.card import card
from harness.run import folder as run_folder
from harness.tokenizer_files import copy_tokenizer
from lm.batch import logits_of
from lm.inference import export as text
from lm.inference.load import Trained, load
from lm.models.pretrained import quiet
from media.encoders import Plan
from media.kinds import PLACEHOLDERS
from media.model import SeeingAndHearing
from media.processors import processors

PICTURES = 8  # that are compared, of noise
CLOSE = 1e-5  # what adding in another order may change
FRONT = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}


def export(path: str, out: str, adapter: bool, dtype: str, push: str | None, trust: Sequence[str] = ()) -> None:
    """Write the model of a run to the folder `out`, and say how far its logits are from the run's."""
    if run_folder.config(locate(Path(path))[0]).get("encoders") is None:
        text.export(path, out, adapter, dtype, push, trust)
        return
    if adapter:
        raise UserError("A run with encoders has no adapter.", cure="Omit --adapter.")
    trained, target = load(path, trust=trust), Path(out)
    model: Any = trained.model.cpu()
    trained.tokenizer.add_special_tokens([PLACEHOLDERS["image"]])  # which a pretrained model's may lack
    token = trained.tokenizer.token_to_id(PLACEHOLDERS["image"])
    assert token is not None
    theirs = as_llava(model, token)
    inputs = noise(model, token)
    with torch.no_grad():  # what stands at the places of a picture is not read
        ours = logits_of(model, {**inputs, "input_ids": inputs["input_ids"].where(inputs["image_at"] < 0, 0)})
    gap = largest_gap([ours], [seen(theirs, model, inputs)[..., : ours.shape[-1]]])
    if not gap <= CLOSE:
        raise UserError(f"LlavaForConditionalGeneration computes other logits, by up to {gap:.2g}: nothing is written.")
    theirs.to(getattr(torch, dtype))
    with appearing(target) as folder, quiet():
        theirs.save_pretrained(folder)
        write_processor(trained, model.plans["image"], folder)
        copy_tokenizer(trained.checkpoint.path, folder, trained.context)
        (folder / "tokenizer.json").write_text(trained.tokenizer.to_str(), encoding="utf-8", newline="")
        again = AutoModelForImageTextToText.from_pretrained(folder, dtype=theirs.dtype, local_files_only=True).eval()
        moved = largest_gap([seen(theirs, model, inputs)], [seen(again, model, inputs)])
        if moved != 0.0:  # nan is not, either
            raise UserError(f"What was written gives other logits, by up to {moved:.3g}: nothing is written.")
        size = in_words(sum(parameter.numel() for parameter in theirs.parameters()))
        what = f"{type(theirs).__name__}, {size} parameters in {dtype}"
        checked = f"largest logit difference {gap:.2g} over {PICTURES} pictures"
        facts = {"model": f"{what}, context {trained.context:,}", "checked": checked}
        about = card(trained.cfg, trained.checkpoint, FRONT, facts, base=trained.cfg.model.get("pretrained"))
        (folder / "README.md").write_text(about, encoding="utf-8")
    print(f"{target.as_posix()}: {what}, step {trained.step:,} of {trained.folder.as_posix()}", checked, sep="\n")
    if push:
        upload(target, push)
        print(f"Pushed to {push}")


def as_llava(model: Any, token: int) -> LlavaForConditionalGeneration:
    """Return the same model under LLaVA's names; `token` stands for a picture. Raises UserError where there is none."""
    assert isinstance(model, SeeingAndHearing)
    plan = model.plans.get("image")
    why = (
        "it hears" if "audio" in model.plans or plan is None
        else f"encoders.image.stack={plan.stack} puts neighbours beside each other" if plan.stack != 1
        else "encoders.image.layer=null reads behind the last norm" if plan.layer is None
        else ""
    )  # fmt: skip
    if why or plan is None:
        raise UserError(
            f"No class of transformers holds this model: {why}.",
            cure="A model of pictures alone, with stack=1 and layer=-1 or -2, becomes LlavaForConditionalGeneration.",
        )
    tower: Any = model.encoders["image"].tower
    inner = model.language_model
    config = copy.deepcopy(inner.config)
    # LLaVA ties its head to embeddings of this name alone; elsewhere the head becomes a copy.
    config.tie_word_embeddings = bool(config.tie_word_embeddings) and hasattr(inner.base_model, "embed_tokens")
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower.config,
            text_config=config,
            image_token_index=token,
            image_seq_length=plan.outputs,
            vision_feature_layer=-1,  # what lay behind is cut off
            vision_feature_select_strategy="default" if plan.family.before else "full",
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    theirs.model.vision_tower.load_state_dict(tower.state_dict(), strict=False)
    theirs.model.multi_modal_projector.load_state_dict(model.projectors["image"].state_dict())
    theirs.model.language_model.load_state_dict(inner.base_model.state_dict())
    theirs.lm_head.load_state_dict(inner.get_output_embeddings().state_dict())
    if token >= inner.config.vocab_size:
        theirs.resize_token_embeddings(token + 1, mean_resizing=False)
    return theirs.eval()  # type: ignore[no-any-return]


def noise(model: SeeingAndHearing, token: int) -> dict[str, Tensor]:
    """Return a batch of one noisy picture a row with a few tokens around it."""
    plan, random = model.plans["image"], torch.Generator().manual_seed(0)
    ids = torch.randint(0, min(token, model.config.vocab_size), (PICTURES, plan.outputs + 8), generator=random)
    at = torch.full_like(ids, -1)
    at[:, 4:-4] = torch.arange(plan.outputs)
    ids[at >= 0] = token
    image = torch.randint(0, 256, (PICTURES, 1, *plan.input), generator=random, dtype=torch.uint8)
    return {"input_ids": ids, "image": image, "image_at": at}


@torch.no_grad()
def seen(theirs: Any, model: SeeingAndHearing, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of transformers' model, given the pixels as its processor makes them."""
    pixels = model.inputs["image"](inputs["image"][:, 0])
    output = theirs(input_ids=inputs["input_ids"], pixel_values=pixels.to(theirs.dtype), use_cache=False)
    return output.logits.float()  # type: ignore[no-any-return]


def write_processor(trained: Trained, plan: Plan, folder: Path) -> None:
    """Write what makes a row of a picture and a text."""
    before = plan.family.before
    LlavaProcessor(
        image_processor=processors({"image": trained.cfg.encoders.image})["image"].processor,
        tokenizer=TheirTokenizer(tokenizer_object=trained.tokenizer),
        patch_size=plan.config.patch_size,
        vision_feature_select_strategy="default" if before else "full",
        image_token=PLACEHOLDERS["image"],
        num_additional_image_tokens=before,
    ).save_pretrained(folder)
