"""generate.py for many prompts at a time, and as a conversation."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from places import PATIENCE, PROJECT

from harness.console import converse
from harness.errors import UserError
from lm.inference.chat import Talk
from lm.inference.generate import generate, sample, sample_rows
from lm.inference.load import load

HOW = {"max_tokens": 25, "temperature": 0, "top_k": 0, "seed": 0}  # of a context of 16: windows move on, too
PROMPTS = ["def return if", "", "self", "for name in list : value = name [ None ] if True else dict", "import"]
CHAT = ("data=chat", f"data.path='{PROJECT / 'devtools' / 'chat.jsonl'}'", "model.config.vocab_size=400")
LONG = "model.config.max_position_embeddings=128"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_prompts_in_a_batch_are_continued_as_one_by_one(
    train: Callable[..., Path], tmp_path: Path, capsys, attention: str, temperature: float
) -> None:
    folder = train(f"model.attention={attention}", "trainer.max_steps=3")
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    how = HOW | {"temperature": temperature}
    capsys.readouterr()
    generate(str(folder), None, **how, prompts=str(file))
    together = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for prompt, line in zip(PROMPTS, together, strict=True):
        generate(str(folder), prompt, **how)
        assert line == {"prompt": prompt, "text": capsys.readouterr().out.removesuffix("\n")}


def test_a_row_that_has_ended_leaves_the_others_alone(train: Callable[..., Path]) -> None:
    trained = load(str(train("trainer.max_steps=3")))
    prompts = [trained.tokenizer.encode(prompt).ids for prompt in ("def", "self name", "import")]
    how = {"max_tokens": 25, "context": 16, "temperature": 0}
    free = [list(sample(trained.model, prompt, **how)) for prompt in prompts]
    stop = free[0][7]  # which the first row says, perhaps sooner
    columns = list(sample_rows(trained.model, prompts, **how, stop=stop))
    for row, whole in zip(zip(*columns, strict=True), free, strict=True):
        said = whole[: whole.index(stop)] if stop in whole else whole
        assert [token for token in row if token is not None] == said


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "There is no file at"), (b"", "is empty"), (b"\xff\n", "is not UTF-8 text")]
)
def test_prompts_that_cannot_be_read_are_a_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        generate("runs/x", None, **HOW, prompts=str(file))


def test_a_run_without_a_template_does_not_chat(train: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="has no chat template"):
        generate(str(train("trainer.max_steps=1")), None, **HOW, chat=True)


def test_an_answer_is_what_continues_the_template(train: Callable[..., Path]) -> None:
    trained = load(str(train(*CHAT, LONG, "trainer.max_steps=1", "data.batch_size=1")))
    talk = Talk(trained, **HOW)
    said = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert talk.template.render([{"role": "user", "content": "Hi"}], asks=True) == said
    assert talk.ends == {trained.tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")}
    ids = trained.tokenizer.encode(said).ids
    tokens = list(sample(trained.model, ids, max_tokens=25, context=128, temperature=0))
    tokens = tokens[: min([tokens.index(end) for end in talk.ends if end in tokens], default=25)]
    assert "".join(talk.reply([{"role": "user", "content": "Hi"}])) == trained.tokenizer.decode(tokens)


def test_what_does_not_fit_is_forgotten_and_said(train: Callable[..., Path], capsys) -> None:
    trained = load(str(train(*CHAT, LONG, "trainer.max_steps=1", "data.batch_size=1")))
    messages = [{"role": role, "content": f"{n} and so on"} for n in range(9) for role in ("user", "assistant")][:-1]
    list(Talk(trained, **HOW).reply(messages))
    assert messages[-1]["content"] == "8 and so on" and 1 <= len(messages) < 17 and messages[0]["role"] == "user"
    assert f"forgotten: the first {(17 - len(messages)) // 2} of what was said" in capsys.readouterr().err
    list(Talk(trained, **HOW).reply([{"role": "user", "content": "word " * 500}]))
    assert "only the end fits into the context of 128 tokens" in capsys.readouterr().err


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A run that was trained on conversations."""
    from omegaconf import OmegaConf

    from conftest import overrides
    from harness.config.compose import compose
    from lm import fit

    last = ("trainer.max_steps=1", "data.batch_size=1")
    cfg = compose([*overrides(corpus, tmp_path_factory.mktemp("talker")), *CHAT, LONG, *last])
    OmegaConf.resolve(cfg)
    fit.train(cfg)
    return Path(cfg.run.dir)


@pytest.mark.slow
def test_lines_from_a_pipe_are_answered(talker: Path, command, tmp_path: Path) -> None:
    arguments = [sys.executable, "generate.py", str(talker), "--chat", "--temperature=0", "--max-tokens=5"]
    done = subprocess.run(
        arguments, cwd=PROJECT, input=b"Hi\n\xff?\n\nnever read\n", capture_output=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.decode("utf-8")
    assert "Loaded step 1 from" in said and "on cpu in float32" in said and "Ctrl-C stops an answer" in said
    assert len(done.stdout.decode("utf-8", "replace").split("\n")) >= 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
def test_ctrl_c_stops_an_answer_and_ctrl_d_the_conversation(talker: Path) -> None:
    import pty

    terminal, theirs = pty.openpty()
    options = ["--chat", "--max-tokens=60", "--temperature=1", "--top-k=0"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(talker), *options],
        cwd=PROJECT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        seen = wait_for(terminal, "> ")
        os.write(terminal, b"Hi\n")
        wait_for(terminal, "piece 3")
        process.send_signal(signal.SIGINT)
        wait_for(terminal, "(stopped)")
        wait_for(terminal, "> ")
        os.write(terminal, b"\x04")
        assert process.wait(PATIENCE) == 0
        assert "Loaded step 1" in seen
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


# The real command, with a model that takes its time.
SLOW = """
import runpy, signal, sys, time
import lm.inference.chat as chat
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
def reply(self, messages):
    for number in range(10_000):
        time.sleep(0.05)
        yield f"piece {number} "
chat.Talk.reply = reply
sys.argv[0] = "generate.py"
runpy.run_path("generate.py", run_name="__main__")
"""


def wait_for(terminal: int, text: str) -> str:
    """Return what a terminal shows up to and with this text."""
    seen, until = b"", time.monotonic() + PATIENCE
    while text.encode() not in seen:
        assert time.monotonic() < until, seen.decode("utf-8", "replace")
        seen += os.read(terminal, 1024)
    return seen.decode("utf-8", "replace")


def test_a_conversation_ends_with_an_empty_line(monkeypatch, capsys) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n\nthree\n"), encoding="utf-8"))
    heard: list[list[str]] = []

    def reply(messages):
        heard.append([message["content"] for message in messages])
        yield from ("said ", messages[-1]["content"])

    converse(reply)
    assert heard == [["one"], ["one", "said one", "two"]]
    assert capsys.readouterr().out == "said one\nsaid two\n"
