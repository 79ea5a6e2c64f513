"""Encoders and the model around a language model: what is read, put, loaded, frozen and trained."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    ViTConfig,
    ViTModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from harness.errors import UserError
from lm.module import logits_of, loss_sums
from lm.optim.groups import build_optimizer
from media.encoders import plan, stacked
from media.model import SeeingAndHearing, put

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28,
}  # fmt: skip
EARS: dict[str, Any] = {
    "d_model": 16, "encoder_ffn_dim": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "decoder_layers": 1,
    "decoder_ffn_dim": 32, "decoder_attention_heads": 2, "max_source_positions": 40, "vocab_size": 60,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
ROWS, POSITIONS, SLOTS = 3, 40, 2


def eyes(kind: type = SiglipVisionConfig, **options: Any) -> dict[str, Any]:
    return {"config": kind(**SIZES, patch_size=7), "layer": -1, "stack": 4, **options}


def ears(**options: Any) -> dict[str, Any]:
    return {"config": WhisperConfig(**EARS), "stack": 4, **options}


def language_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, **sizes))


def model(**encoders: Any) -> SeeingAndHearing:
    return SeeingAndHearing(language_model(), encoders=encoders)


def batch(network: SeeingAndHearing, *, without: int = -1) -> dict[str, torch.Tensor]:
    """A batch whose rows have each medium in their last slot; row `without` has text only."""
    ids = torch.randint(0, 50, (ROWS, POSITIONS), generator=torch.Generator().manual_seed(1))
    made, start = {"input_ids": ids, "labels": ids.clone()}, 2
    for kind, planned in network.plans.items():
        noise = torch.rand(ROWS, SLOTS, *planned.input, generator=torch.Generator().manual_seed(2))
        made[kind] = (noise * 255).to(torch.uint8) if kind == "image" else noise
        at = torch.full((ROWS, POSITIONS), -1)
        at[:, start : start + planned.outputs] = (SLOTS - 1) * planned.outputs + torch.arange(planned.outputs)
        made["labels"][at >= 0] = -100
        if without >= 0:
            at[without] = -1
            made[kind][without] = 0
        made[f"{kind}_at"] = at
        start += planned.outputs + 3
    return made


def loss(network: SeeingAndHearing, made: dict[str, torch.Tensor]) -> torch.Tensor:
    total, count = loss_sums(logits_of(network, made), made["labels"])
    return total / count


def without_gradient(network: SeeingAndHearing) -> list[str]:
    named = network.named_parameters()
    return [name for name, p in named if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]


@pytest.mark.parametrize("kind", [SiglipVisionConfig, ViTConfig, Dinov2Config, "clip"])
@pytest.mark.parametrize("layer", [-1, -2, None])
def test_every_trained_parameter_has_a_gradient_in_the_first_step(kind: Any, layer: int | None) -> None:
    from transformers import CLIPVisionConfig

    network = model(image=eyes(CLIPVisionConfig if kind == "clip" else kind, layer=layer), audio=ears(layer=layer))
    loss(network, batch(network)).backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("kind", [SiglipVisionConfig, Dinov2Config, ViTConfig])
@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_what_is_read_is_that_hidden_state(kind: Any, layer: int) -> None:
    from transformers import AutoModel

    torch.manual_seed(3)
    network = model(image=eyes(kind, layer=layer, stack=1))
    tower = network.encoders["image"].tower
    whole = AutoModel.from_config(kind(**SIZES, patch_size=7)).eval()
    whole.load_state_dict(tower.state_dict(), strict=False)
    pixels = torch.rand(2, 3, 28, 28)
    states = whole(pixels, output_hidden_states=True).hidden_states
    before = network.plans["image"].family.before
    torch.testing.assert_close(network.encoders["image"].eval()(pixels), states[layer][:, before:])


def test_outputs_land_where_masked_scatter_puts_them_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    embeddings, outputs = torch.randn(2, 9, 4, requires_grad=True), torch.randn(2, 6, 4, requires_grad=True)
    at = torch.tensor([[-1, 0, 1, 2, -1, 3, 4, 5, -1], [0, 1, 2, 3, 4, 5, -1, -1, -1]])  # all are taken, in order
    ours = put(embeddings, outputs, at)
    theirs = embeddings.masked_scatter((at >= 0)[..., None].expand_as(embeddings), outputs)
    assert torch.equal(ours, theirs)
    weights = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weights).sum(), (embeddings, outputs)),
        torch.autograd.grad((theirs * weights).sum(), (embeddings, outputs)),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_a_slot_that_nobody_takes_has_a_gradient_of_zero_and_changes_nothing() -> None:
    network = model(image=eyes(), audio=ears()).eval()
    made = batch(network)
    made["audio"].requires_grad_()
    first = logits_of(network, made)
    loss(network, made).backward()
    assert made["audio"].grad is not None
    assert not made["audio"].grad[:, 0].any() and made["audio"].grad[:, 1].any()
    made["image"][:, 0] = 255
    assert torch.equal(logits_of(network, made), first)
    made["image"][0, 1] = 255
    other = logits_of(network, made)
    assert not torch.equal(other[0], first[0]) and torch.equal(other[1:], first[1:])  # each lands on its own row


def test_a_row_of_text_reads_as_without_encoders() -> None:
    network = model(image=eyes(), audio=ears()).eval()
    made = batch(network, without=1)
    alone = network.language_model(input_ids=made["input_ids"], use_cache=False).logits
    torch.testing.assert_close(logits_of(network, made)[1], alone[1])
    assert torch.equal(logits_of(network, {"input_ids": made["input_ids"]}), alone)


def test_it_compiles_whole() -> None:
    network = model(image=eyes(lr_scale=0), audio=ears())
    made = batch(network)
    compiled = torch.compile(lambda batch: logits_of(network, batch), backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(made), logits_of(network, made))


def test_neighbours_of_a_picture_are_a_square_and_of_a_sound_what_follows() -> None:
    grid = torch.arange(16.0).reshape(1, 16, 1)
    assert stacked(grid, 4, square=True)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert stacked(grid, 4, square=False)[0].tolist() == [[4 * i + j for j in range(4)] for i in range(4)]


def test_black_pictures_and_silence_train_without_nan() -> None:
    network = model(image=eyes(), audio=ears())
    made = batch(network)
    made["image"].zero_()
    made["audio"].zero_()
    loss(network, made).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_no_encoder_is_given_an_attention_mask() -> None:
    network = model(image=eyes(), audio=ears())
    seen: list[Any] = []
    for name, part in network.encoders.named_modules():
        if name.endswith("self_attn"):
            part.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
            )
    logits_of(network, batch(network))
    assert len(seen) == 6 and all(mask is None for mask in seen)


@pytest.mark.parametrize("frozen", ["encoders.image", "projectors.audio", "language_model"])
def test_a_scale_of_zero_freezes_a_part(frozen: str) -> None:
    parts: dict[str, Any] = {"image": eyes(), "audio": ears(), "language_model": {}}
    if frozen == "projectors.audio":
        parts["audio"]["projector"] = {"lr_scale": 0}
    else:
        parts[frozen.removeprefix("encoders.")]["lr_scale"] = 0
    parts["image"]["config"].attention_dropout = 0.5
    network = model(**parts)
    part = network.get_submodule(frozen)
    before = copy.deepcopy(part.state_dict())
    optimizer = build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=1e-2), network)
    network.train()
    assert not any(module.training for module in part.modules())
    assert all(module.training for name, module in network.encoders["audio"].named_modules())
    loss(network, batch(network)).backward()
    optimizer.step()
    ours = {id(parameter) for parameter in part.parameters()}
    assert not ours & {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(parameter.grad is None for parameter in part.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in part.state_dict().items())
    assert without_gradient(network) == []


def test_a_frozen_encoder_keeps_no_graph() -> None:
    network = model(image=eyes(lr_scale=0), audio=ears())
    assert network.outputs("image", batch(network)["image"]).requires_grad  # the projector's
    with torch.enable_grad():
        seen: list[bool] = []
        network.encoders["image"].register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
        loss(network, batch(network))
    assert seen == [False]


def test_each_part_learns_at_its_own_rate() -> None:
    network = model(image=eyes(lr_scale=0.1, projector={"lr_scale": 10}), language_model={"lr_scale": 0.01})
    optimizer = build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=1e-2), network)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    scales = {"encoders.image": 0.1, "projectors.image": 10, "language_model": 0.01}
    for name, parameter in network.named_parameters():
        scale = next(value for part, value in scales.items() if name.startswith(part))
        assert rates[id(parameter)] == pytest.approx(1e-2 * scale)


def test_text_alone_has_the_groups_that_it_had() -> None:
    groups = build_optimizer(lambda groups: torch.optim.AdamW(groups, lr=1e-2), language_model()).param_groups
    assert [(len(group["params"]), group["weight_decay"], "lr_scale" in group) for group in groups] == [
        (16, 0.01, False),
        (5, 0.0, False),
    ]


def test_nothing_left_to_train_is_said() -> None:
    still: dict[str, Any] = {"lr_scale": 0}
    with pytest.raises(UserError, match="nothing is left to train"):
        model(image=eyes(**still, projector=still), language_model=still)


def test_fresh_and_frozen_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model(image=eyes(lr_scale=0))
    assert "encoders.image is fresh and frozen" in caplog.text


def test_the_table_says_what_is_trained_and_where_weights_are_from() -> None:
    network = model(image=eyes(lr_scale=0), audio=ears(seconds=0.4))
    rows = {row["part"]: row for row in network.parts()}
    assert rows["encoders.image"]["trained"] == 0 and rows["encoders.image"]["weights"] == "fresh"
    assert rows["encoders.audio"]["input"] == [80, 40] and rows["encoders.audio"]["tokens"] == 5
    assert sum(row["parameters"] for row in rows.values()) == sum(p.numel() for p in network.parameters())


# Out of whole checkpoints.


def saved(network: Any, folder: Path, processor: Any = None) -> Path:
    network.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(text_config={**text, "vocab_size": 50}, vision_config={**SIZES, "patch_size": 7})
    return saved(SiglipModel(config), folder, SiglipImageProcessorPil(size={"height": 28, "width": 28}))


def whisper(folder: Path) -> Path:
    network = WhisperForConditionalGeneration(WhisperConfig(**EARS))
    return saved(network, folder, WhisperFeatureExtractor(chunk_length=1))


def same_tensors(found: Any, folder: Path, prefix: str) -> int:
    """Compare an encoder with the tensors of a file, by the names behind `prefix`."""
    stored = load_file(folder / "model.safetensors")
    own = found.state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, stored[f"{prefix}{name}"]), name
    return len(own)


def test_siglips_encoder_is_taken_out_of_a_whole_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    folder = siglip(tmp_path / "siglip")
    network = model(image={"name": str(folder), "layer": -2, "stack": 1, "lr_scale": 0})
    stored = load_file(folder / "model.safetensors")
    prefix = next(name for name in stored if name.endswith("patch_embedding.weight") and "vision" in name)
    prefix = prefix.removesuffix("embeddings.patch_embedding.weight")
    assert same_tensors(network.encoders["image"].tower, folder, prefix) == 3 + 2 * 16  # embeddings, two layers
    assert network.parts()[0]["weights"] == folder.as_posix()


@pytest.mark.parametrize("seconds", [None, 0.4])
def test_whispers_encoder_is_taken_out_of_a_whole_checkpoint_and_may_hear_less(
    tmp_path: Path, seconds: float | None
) -> None:
    folder = whisper(tmp_path / "whisper")
    network = model(audio={"name": str(folder), "seconds": seconds, "stack": 4})
    tower = network.encoders["audio"].tower
    stored = load_file(folder / "model.safetensors")
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, stored[f"model.encoder.{name}"][: len(tensor)]), name
    positions = 40 if seconds is None else 20
    assert len(tower.embed_positions.weight) == positions
    assert network.outputs("audio", batch(network)["audio"]).shape == (ROWS, SLOTS * positions // 4, 24)


@pytest.mark.parametrize("kind", ["clip", "dinov2", "vit"])
def test_other_encoders_of_pictures_are_loaded_by_name(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(5)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole: Any = {
        "clip": lambda: CLIPModel(CLIPConfig(text_config=text, vision_config={**SIZES, "patch_size": 7})),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, patch_size=7)),
        "vit": lambda: ViTModel(ViTConfig(**SIZES, patch_size=7)),
    }[kind]()
    processor = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    folder = saved(whole, tmp_path / kind, processor)
    tower = model(image={"name": str(folder), "layer": -2}).encoders["image"].tower
    theirs = dict(getattr(whole, "vision_model", whole).named_parameters())
    ours = dict(tower.named_parameters())
    assert len(ours) > 30 and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def refused(encoders: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        model(**encoders)
    assert "\n\n" not in str(error.value)
    return str(error.value)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    folder = saved(gpt2, tmp_path / "gpt2", WhisperFeatureExtractor())
    said = refused({"image": {"name": str(folder)}})
    assert said == (
        "encoders.image is a model of type gpt2, which is no encoder here. "
        "Known are clip_vision_model, dinov2, siglip_vision_model, vit."
    )
    assert "model of type whisper" in refused({"image": {"name": str(whisper(tmp_path / "whisper"))}})
    # What config.json says is not what the weights are.
    config = json.loads((siglip(tmp_path / "siglip") / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    SiglipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    assert "missing     " in refused({"image": {"name": str(folder)}})


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_checkpoint_without_one_layer_is_refused(tmp_path: Path, kind: str) -> None:
    folder = (siglip if kind == "image" else whisper)(tmp_path / kind)
    stored = load_file(folder / "model.safetensors")
    part = "vision_model.encoder.layers.1." if kind == "image" else "model.encoder.layers.1."
    kept = {name: tensor for name, tensor in stored.items() if not name.startswith(part)}
    assert len(kept) < len(stored)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    said = refused({kind: {"name": str(folder)}})
    assert f"The weights in {folder} do not fit the model" in said and "missing     " in said and "layers.1." in said


def test_a_wrong_path_and_weights_that_are_pickles_are_refused(tmp_path: Path) -> None:
    assert f"There is no folder {tmp_path}/nothing, which encoders.image.name names" in refused(
        {"image": {"name": f"{tmp_path}/nothing"}}
    )
    folder = siglip(tmp_path / "siglip")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "has no model.safetensors" in refused({"image": {"name": str(folder)}})


def test_a_wrong_number_of_mel_bins_is_refused(tmp_path: Path) -> None:
    folder = whisper(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=128, chunk_length=1).save_pretrained(folder)
    assert "its extractor makes 128 mel bins, and the encoder hears 80" in refused({"audio": {"name": str(folder)}})


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("image", {"layer": -4}, "encoders.image.layer=-4: this encoder has 3 layers."),
        ("image", {"stack": 9}, "does not divide 4 x 4 patches into squares. Take 1, 4 or 16."),
        ("image", {"stack": 2}, "does not divide 4 x 4 patches"),
        ("audio", {"seconds": 1}, "encoders.audio.seconds=1: this encoder hears 0.8 s. Take 0.8 or less."),
        ("audio", {"seconds": 0.5}, "makes 25 outputs, not a multiple of encoders.audio.stack=4. Take 0.48 seconds."),
        ("audio", {"stack": 7}, "makes 40 outputs, not a multiple"),
    ],
)
def test_what_an_encoder_cannot_do_is_said(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace(".", "[.]")):
        plan(kind, {**(eyes() if kind == "image" else ears()), **options})


def test_a_model_of_ones_own_takes_no_encoders() -> None:
    with pytest.raises(UserError, match="Linear is none"):
        SeeingAndHearing(torch.nn.Linear(1, 1), encoders={"image": eyes()})


def test_logits_equal_those_of_llava(tmp_path: Path) -> None:
    """Their placeholders are found by id, and read what ours says by position."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    text = language_model()
    network = SeeingAndHearing(text, encoders={"image": eyes(stack=1)}).eval()
    vision = copy.deepcopy(network.encoders["image"].tower.config)
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text.config,
            image_token_index=49,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    ).eval()
    theirs.model.vision_tower.load_state_dict(network.encoders["image"].tower.state_dict(), strict=False)
    theirs.model.language_model.load_state_dict(text.model.state_dict())
    theirs.lm_head.load_state_dict(text.lm_head.state_dict())
    theirs.model.multi_modal_projector.load_state_dict(network.projectors["image"].state_dict())
    made = batch(network)
    made["input_ids"] = made["input_ids"].clamp(max=48)
    made["input_ids"][made["image_at"] >= 0] = 49
    pixels = network.inputs["image"](made["image"][:, 1])
    torch.testing.assert_close(
        logits_of(network, made), theirs(input_ids=made["input_ids"], pixel_values=pixels).logits, atol=1e-5, rtol=0
    )
