"""A pretrained model: loaded is what its folder holds, trained is what was asked for, and both are said."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exactness import assert_same, newest
from omegaconf import OmegaConf
from pretrained_models import into_cache, make, words, write_old_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from harness.checkpoint import read
from harness.config.check import check
from harness.config.compose import compose
from harness.errors import UserError
from hooks import PowerCut
from lm import fit
from lm.inference.load import load
from lm.models.build import build_model, model_config

FREEZE = "model.freeze=[transformer.wte.*,'transformer.h.0.*']"
WAYS = {
    "whole": ("pretrained",),
    "frozen": ("pretrained", FREEZE),
    "adapter": ("lora", "model.lora.r=2"),
    "adapter of an average": ("lora", "callbacks=[default,ema]"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path / "tiny")


@pytest.fixture
def tune(corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train a model as the command line would; returns the run's folder."""

    def run(model: Path | str, preset: str, *overrides: str) -> Path:
        cfg = compose([*words(model, corpus, tmp_path, preset), *overrides])
        check(cfg)
        OmegaConf.resolve(cfg)
        fit.train(cfg)
        return Path(cfg.run.dir)

    return run


def built(model: Path | str, *overrides: str, preset: str = "pretrained", attention: str = "eager"):
    cfg = compose([f"model={preset}", f"model.name={model}", *overrides])
    return build_model(cfg.model, model_config(cfg.model), attention=attention)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if "average" in way else pytest.mark.slow) for way in WAYS])
def test_killed_and_resumed_it_equals_uninterrupted(model: Path, tune, said, way: str) -> None:
    preset, *more = WAYS[way]
    cut = "+callbacks.cut={_target_:hooks.CutAt,step:3,hook:batch_end}"
    reference = tune(model, preset, *more, "run.name=reference")
    with pytest.raises(PowerCut):
        tune(model, preset, *more, "run.name=cut", cut)
    resumed = tune(model, preset, *more, "run.name=cut")
    assert_same(resumed, reference)
    count, trained = {"whole": (28, 28), "frozen": (28, 15)}.get(way, (4, 4))
    step = resumed / "checkpoints" / "step-00000002"
    assert f"Loaded {count} of {count} tensors from {step.as_posix()}, {trained} trainable (" in said.text
    assert f"), moments of {trained}\n" in said.text
    if way != "whole":
        frozen = 13 if way == "frozen" else 28
        assert f"By step 3 all {trained} trained tensors have moved, and none of {frozen} frozen." in said.text


def test_what_is_frozen_stays_what_it_was(model: Path, tune, said) -> None:
    run = tune(model, "pretrained", FREEZE)
    before, after = load_file(model / "model.safetensors"), read.load_weights(newest(run))
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert same == {name for name in before if name.startswith(("transformer.wte.", "transformer.h.0."))}
    assert f"Loaded 28 of 28 tensors from {model}, 15 trainable (13.8 k of 36.7 k)\n" in said.text


def test_an_adapter_is_all_that_its_checkpoint_holds(model: Path, tune) -> None:
    run = tune(model, "lora", "callbacks=[default,ema]")
    checkpoint = newest(run)
    assert all(".lora_" in name for name in read.load_weights(checkpoint))
    trainer = read.load_trainer(checkpoint)
    assert all(".lora_" in name for name in trainer["current_model_state"])
    moments = trainer["optimizer_states"][0]["state"]
    assert len(moments) == len(read.load_weights(checkpoint)) == 4
    trained = load(str(run)).model
    base = load_file(model / "model.safetensors")
    assert torch.equal(
        trained.transformer.h[0].attn.c_attn.base_layer.weight, base["transformer.h.0.attn.c_attn.weight"]
    )


def test_an_adapter_is_not_put_on_other_weights(model: Path, tune) -> None:
    run = tune(model, "lora", "run.name=x")
    make(model, seed=2)
    with pytest.raises(
        UserError, match=r"was trained on top of .*tiny \(a folder, checksum \w+\), and here is .*others"
    ):
        tune(model, "lora", "run.name=x", "trainer.max_steps=6")
    with pytest.raises(UserError, match="was trained on top of"):
        load(str(run))


def test_a_frozen_tensor_that_moves_ends_the_run(model: Path, tune) -> None:
    stray = "+callbacks.stray={_target_:hooks.Stray,name:transformer.wpe.weight}"
    with pytest.raises(UserError, match=r"Step 1 moved 1 of 1 frozen tensors: transformer\.wpe\.weight\."):
        tune(model, "pretrained", "model.freeze=[transformer.wpe.weight]", stray)


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ("[h.0.*]", r"no parameter matches 'h\.0\.\*'\. Near are transformer\.h\.0\.ln_1\.weight"),
        ("[transformer.wtf.weight]", r"Near are transformer\.wte\.weight"),
        ("['*']", "leaves nothing to train"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(model: Path, patterns: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        built(model, f"model.freeze={patterns}")


def spoil(model: Path, how: str) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    if how == "missing":
        del tensors["transformer.h.1.mlp.c_fc.weight"]
    elif how == "unexpected":
        tensors["score.weight"] = torch.zeros(2)
    elif how == "shape":
        tensors["transformer.ln_f.bias"] = torch.zeros(7)
    elif how == "bin":
        torch.save(tensors, model / "pytorch_model.bin")
    elif how == "code":
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"}}
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    elif how == "config":
        (model / "config.json").unlink()
    save_file(tensors, file, {"format": "pt"})
    if how in ("bin", "none"):
        file.unlink()
    if how == "cut":
        file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", r"do not fit the model:\n  missing     transformer\.h\.1\.mlp\.c_fc\.weight\n"),
        ("unexpected", r"\n  unexpected  score\.weight\n"),
        ("shape", r"\n  shape       transformer\.ln_f\.bias: \(7,\) in the file, \(32,\) in the model\n"),
        (
            "bin",
            r"has no model\.safetensors\. It has pytorch_model\.bin, which may run code .* model\.safetensors=false",
        ),
        ("none", r"has no model\.safetensors\. Fetch it again"),
        ("code", r"needs Python files of its own.*model\.trust_remote_code=true"),
        ("config", "cannot be loaded"),
        ("cut", "cannot be loaded"),
    ],
)
def test_a_model_that_is_not_whole_is_one_sentence(model: Path, how: str, sentence: str) -> None:
    spoil(model, how)
    with pytest.raises(UserError, match=sentence):
        built(model)


def test_pickles_are_read_where_that_was_asked_for(model: Path) -> None:
    whole = built(model)
    spoil(model, "bin")
    assert torch.equal(built(model, "model.safetensors=false").lm_head.weight, whole.lm_head.weight)


def test_a_tokenizer_that_is_too_large_is_one_sentence_and_what_it_says_helps(tmp_path: Path, tune, said) -> None:
    small = make(tmp_path / "small", vocab_size=290)
    with pytest.raises(
        UserError, match=r"The tokenizer has 300 tokens, and the model only 290\. Set model\.config\.vocab_size=300"
    ):
        tune(small, "pretrained")
    larger = "model.config.vocab_size=300"
    run = tune(small, "pretrained", larger, "trainer.max_steps=2")
    assert "10 tokens are new: their embeddings are drawn to be like those of the others." in said.text
    assert_same(tune(small, "pretrained", larger), tune(small, "pretrained", larger, "run.name=whole"))
    trained = load(str(run)).model
    assert trained.config.vocab_size == len(trained.get_input_embeddings().weight) == 300
    fresh = built(small, larger)
    assert torch.equal(fresh.get_input_embeddings().weight[:290], built(small).get_input_embeddings().weight)
    assert fresh.lm_head.weight is fresh.get_input_embeddings().weight
    with pytest.raises(UserError, match=r"model\.lora trains no embeddings, and 10 tokens are new"):
        built(small, larger, preset="lora")
    with pytest.raises(UserError, match=r"shape       transformer\.wte\.weight: \(290, 32\) in the file, \(280, 32\)"):
        built(small, "model.config.vocab_size=280")


def test_a_name_of_a_hub_is_found_in_its_cache_without_a_network(
    model: Path, tmp_path: Path, tune, monkeypatch
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    snapshot = into_cache(model, "someone/tiny", cache)
    shutil.rmtree(model)
    no_network(monkeypatch)
    run = tune("someone/tiny", "lora")
    assert run.name.startswith("tiny-text-")
    assert newest(run).manifest["elsewhere"]["revision"] == snapshot.name
    assert load(str(run)).step == 4


def test_a_model_that_is_not_here_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the hub cannot be reached. On a machine that has a network, type hf download"):
        built("someone/tiny")
    with pytest.raises(UserError, match=r"There is no folder \./tiny, which model\.pretrained names"):
        built("./tiny")


def test_a_half_fetched_model_is_not_taken_for_whole(model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (into_cache(model, "someone/tiny", tmp_path) / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no model\.safetensors\. Fetch it again .* hf download so"):
        built("someone/tiny")


def test_keys_of_its_config_can_be_changed_and_no_others(model: Path) -> None:
    assert built(model, "model.config.resid_pdrop=0.5").transformer.h[0].mlp.dropout.p == 0.5
    with pytest.raises(UserError, match=r"no key model\.config\.resid_pdrp\. Did you mean resid_pdrop"):
        built(model, "model.config.resid_pdrp=0.5")


def test_it_is_loaded_in_the_type_that_is_asked_for_and_with_dropout(model: Path) -> None:
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    assert {p.dtype for p in built(model).parameters()} == {torch.float32}
    half = built(model, "model.dtype=bfloat16", preset="lora")
    assert {p.dtype for name, p in half.named_parameters() if ".lora_" not in name} == {torch.bfloat16}
    assert {p.dtype for name, p in half.named_parameters() if ".lora_" in name} == {torch.float32}
    assert half.training and half.transformer.drop.training


def test_targets_that_the_model_lacks_are_one_sentence(model: Path) -> None:
    with pytest.raises(UserError, match=r"fits no module of this model. It has c_attn, c_proj, c_fc"):
        built(model, "model.lora.target_modules=[q_proj]", preset="lora")


@pytest.mark.slow
def test_gpt2_as_it_was_published_gives_the_tokens_and_logits_of_transformers(
    corpus: Path, tmp_path: Path, said
) -> None:
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)
    write_old_tokenizer(folder, 50257)
    cfg = compose([*words(folder, corpus, tmp_path), "model.context=64", f"data.prepared={tmp_path / 'prepared'}"])
    check(cfg)
    config = model_config(cfg.model)
    data = fit.build_data(cfg, config)
    ours = build_model(cfg.model, config, attention="sdpa", special_ids=data.special_ids).eval()
    assert f"Loaded 148 of 148 tensors from {folder}, 148 trainable (124 M of 124 M)" in said.text
    assert sum(p.numel() for p in ours.parameters()) == 124_439_808
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert data.tokenizer.get_vocab_size() == len(tokenizer) == 50257
    assert data.special_ids["eos_token_id"] == tokenizer.eos_token_id == 50256
    for text in ("It was the best of times;\n\n  isn't it? Grüße 😊", "def return if else"):
        ids = tokenizer(text)["input_ids"]
        assert data.tokenizer.encode(text).ids == ids and tokenizer.decode(ids) == text
        with torch.no_grad():
            assert torch.equal(ours(torch.tensor([ids])).logits, theirs(torch.tensor([ids])).logits)
