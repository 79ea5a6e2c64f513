"""Pretrained models as a hub has them, made small: config.json, safetensors, a tokenizer; and a hub's cache of them."""

import functools
import hashlib
import json
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, Qwen3Config

from conftest import WORDS
from harness.tokenizer_files import tokenizer_config
from lm.data.tokenizer import train_tokenizer

END = "<|endoftext|>"
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}
COMMON = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
# The shapes of three families, a few thousand parameters each. Vocabularies are padded beyond the tokenizer's.
SHAPES: dict[str, functools.partial[PretrainedConfig]] = {
    "gpt2": functools.partial(GPT2Config, n_positions=32, n_embd=32, n_layer=2, n_head=2, **COMMON),
    "llama": functools.partial(LlamaConfig, **LLAMA, **COMMON),
    "qwen3": functools.partial(Qwen3Config, **LLAMA, head_dim=16, **COMMON),
}


def make(folder: Path, shape: str = "gpt2", *, seed: int = 1, **config: object) -> Path:
    """Write a model with random weights, and its tokenizer, as `save_pretrained` does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(SHAPES[shape](**config))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(_tokenizer(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        tokenizer_config(dict.fromkeys(("eos", "bos", "pad"), END), []), encoding="utf-8"
    )
    return folder


def write_old_tokenizer(folder: Path, size: int) -> None:
    """Write vocab.json and merges.txt as GPT-2's were published: bytes, then merges, the end of a text last of `size`.
    The merges are those of a small text; tokens that nothing makes fill up the rest."""
    text = "It was the best of times, it was the worst of times; 2 + 2 = 4, isn't it?\n" * 9
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    vocabulary = dict(sorted(learned["vocab"].items(), key=lambda entry: entry[1]))
    vocabulary |= {f"<|unused {number}|>": number for number in range(len(vocabulary), size - 1)} | {END: size - 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learned["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@functools.cache
def _tokenizer() -> str:
    return train_tokenizer([" ".join(WORDS)] * 20, 300, 20).to_str()


def into_cache(model: Path, name: str, cache: Path, commit: str = "0" * 39 + "1") -> Path:
    """Put a model's files where a hub's client looks for those of `name`; return that snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (repository / "refs", repository / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    for file in sorted(model.iterdir()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path(os.path.relpath(blob, snapshot)))
    return snapshot


def words(model: Path | str, corpus: Path, folder: Path, preset: str = "pretrained") -> list[str]:
    """Return the command line of the smallest run that trains it."""
    return [
        f"model={preset}", f"model.name={model}", "data=text", f"data.path={corpus}", "data.batch_size=4",
        "data.val_fraction=0.2", f"data.prepared={corpus.parent / 'prepared'}", f"run.root={folder / 'runs'}",
        "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=4", "trainer.log_every_n_steps=1",
        "scheduler.warmup_steps=2", "optimizer.lr=1e-3", "model.attention=eager", "logger=csv",
        "checkpoint.every_n_steps=2", "checkpoint.every_minutes=null", "callbacks.samples=null",
    ]  # fmt: skip
