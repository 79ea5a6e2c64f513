"""A run that sees is handed over to transformers, whose own class and processor give the same logits."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from places import PROJECT
from pretrained_models import make
from test_media_training import SMALL

from harness.config.compose import compose
from harness.errors import UserError
from lm import fit
from lm.inference.load import load
from lm.module import logits_of
from media.evaluate import evaluate
from media.export import export
from media.generate import generate, shown

pytestmark = pytest.mark.slow


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    def run(*overrides: str) -> Path:
        folders = [f"data.prepared={tmp_path / 'prepared'}", f"run.root={tmp_path / 'runs'}"]
        cfg = compose([*SMALL, "trainer.max_steps=2", *folders, *overrides])
        OmegaConf.resolve(cfg)
        fit.train(cfg)
        return Path(cfg.run.dir)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("layer", [-1, -2])
def test_transformers_sees_what_the_run_sees(
    train: Callable[..., Path], tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str], layer: int
) -> None:
    folder = train("data=colours", "~encoders.audio", f"encoders.image.layer={layer}")
    export(str(folder), str(tmp_path / "out"), adapter=False, dtype="float32", push=None)
    assert "LlavaForConditionalGeneration" in capsys.readouterr().out
    from transformers import AutoModelForImageTextToText, AutoProcessor

    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out", local_files_only=True, backend="pil")
    with Image.open(picture) as image:
        inputs = processor(text="<|image|>red blue", images=image.convert("RGB"), return_tensors="pt")
    trained = load(str(folder))
    row, ids = shown(trained, {"image": [str(picture)], "audio": []}, "red blue")
    assert inputs["input_ids"][0].tolist() == ids
    row["image_at"] = torch.nn.functional.pad(row["image_at"], (0, len(ids) - len(row["image_at"])), value=-1)
    batch = {"input_ids": torch.tensor([ids]), **{name: tensor[None] for name, tensor in row.items()}}
    with torch.no_grad():
        logits = theirs(**inputs, use_cache=False).logits
        torch.testing.assert_close(logits_of(trained.model.cpu(), batch), logits, atol=1e-5, rtol=0)


def test_a_pretrained_language_model_learns_to_see_and_is_handed_over(
    train: Callable[..., Path], tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tokenizer has no placeholder, and its vocabulary no room for one."""
    own = make(tmp_path / "lm", "gpt2", n_positions=96, vocab_size=300)
    sizes = [word for word in SMALL if word.startswith(("encoders.image", "trainer", "data.", "logger"))]
    words = [
        "model=pretrained",
        f"model.name={own}",
        "model.context=96",
        "data=colours",
        "encoders=tiny",
        "~encoders.audio",
    ]
    folders = [f"data.prepared={tmp_path / 'prepared'}", f"run.root={tmp_path / 'runs'}", "scheduler.warmup_steps=1"]
    cfg = compose([*words, *sizes, "trainer.max_steps=2", *folders])
    OmegaConf.resolve(cfg)
    fit.train(cfg)
    folder = str(cfg.run.dir)
    evaluate(folder, None, [], as_json=False)
    generate(folder, "red", [str(picture)], max_tokens=3, temperature=0, top_k=0, seed=0)
    assert "with another document's" in capsys.readouterr().out
    export(folder, str(tmp_path / "out"), adapter=False, dtype="float32", push=None)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out", local_files_only=True, backend="pil")
    with Image.open(picture) as image:
        inputs = processor(text="<|image|>red", images=image.convert("RGB"), return_tensors="pt")
    assert theirs(**inputs, use_cache=False).logits.isfinite().all()


def test_what_no_class_of_transformers_holds_is_said(train: Callable[..., Path], tmp_path: Path) -> None:
    folder = train()
    with pytest.raises(UserError, match="No class of transformers holds this model: it hears."):
        export(str(folder), str(tmp_path / "out"), adapter=False, dtype="float32", push=None)
    assert not (tmp_path / "out").exists()


def test_the_commands_take_a_run_with_media(train: Callable[..., Path], tmp_path: Path, picture: Path) -> None:
    folder = train("data=colours", "~encoders.audio")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, *words]
        return subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8", check=False)

    scored = run("evaluate.py", str(folder))
    assert scored.returncode == 0 and "with another document's" in scored.stdout, scored.stderr
    said = run("generate.py", str(folder), "--image", str(picture), "--max-tokens", "4", "--prompt", "red")
    assert said.returncode == 0 and said.stdout.startswith("red"), said.stderr
    assert "size [120, 90]" in said.stderr
    deaf = run("generate.py", str(folder), "--audio", str(picture))
    assert deaf.returncode == 2 and "was trained without an encoder of sounds" in deaf.stderr
    torn = tmp_path / "torn.png"
    torn.write_bytes(picture.read_bytes()[:300])
    refused = run("generate.py", str(folder), "--image", str(torn))
    assert refused.returncode == 2 and str(torn) in refused.stderr and "Traceback" not in refused.stderr
    alone = run("generate.py", str(folder), "--max-tokens", "2")
    assert alone.returncode == 0, alone.stderr
