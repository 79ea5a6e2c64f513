"""Conversations: both forms, the template that ships, and a loss that counts the assistant's turns only."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import PROJECT
from rich.console import Console
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from harness.data.conversations import answered, normalized
from harness.data.files import json_rows
from harness.errors import UserError
from lm.batch import NO_LABEL
from lm.data.chat import TEMPLATE, ChatSource, Template
from lm.data.datamodule import LmData, windows
from lm.data.prepare import Prepared, Recipe, encode_only, prepare
from lm.data.show import LEGEND, show
from lm.data.sources import Document
from lm.data.tokenizer import TokenizerChoice, train_tokenizer

rendered = Template(TEMPLATE.read_text(encoding="utf-8")).answered
LONG = "model.config.max_position_embeddings=512"
SHIPPED = PROJECT / "devtools" / "chat.jsonl"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello 😊"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": ""},
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    recipe = Recipe(vocab_size=600, val_fraction=0.2, seed=0)
    return prepare(ChatSource(str(SHIPPED)), recipe, tmp_path_factory.mktemp("chat"))


def learned_text(tokenizer: Tokenizer, row: dict[str, Any]) -> str:
    kept = [
        token
        for token, label in zip(row["input_ids"].tolist(), row["labels"].tolist(), strict=True)
        if label != NO_LABEL
    ]
    return tokenizer.decode(kept, skip_special_tokens=False)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": "Hello"},
            ]
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    ],
    ids=["openai", "openai in parts", "sharegpt", "a bare list"],
)
def test_every_form_gives_the_same_messages(record: object) -> None:
    assert normalized(record) == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_the_learned_stretches_are_the_assistants_turns_with_their_end() -> None:
    text, spans = rendered(CHAT)
    assert [text[start:end] for start, end in spans] == ["Hello 😊<|im_end|>", "<|im_end|>"]
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_the_template_renders_as_transformers_own_tokenizers_render_it(prepared: Prepared) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=prepared.tokenizer, chat_template=TEMPLATE.read_text(encoding="utf-8")
    )
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == rendered(CHAT)[0]
    prompt = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert rendered(CHAT[:3])[0].startswith(prompt)


@given(st.text(max_size=20), st.lists(st.integers(0, 20), max_size=6))
def test_parts_put_together_are_the_text(text: str, borders: list[int]) -> None:
    borders = sorted({min(border, len(text)) for border in borders})
    learned = tuple(zip(borders[::2], borders[1::2], strict=False))
    parts = list(Document("x", text, learned).parts())
    assert "".join(part for part, _ in parts) == text
    assert "".join(part for part, counts in parts if counts) == "".join(text[start:end] for start, end in learned)


def test_each_row_is_a_conversation_whose_labels_are_the_assistants_turns(prepared: Prepared) -> None:
    rows = windows(prepared, "train", context=512, packing=False)
    expected = set()
    for _, record in json_rows(SHIPPED):
        text, learned = rendered(normalized(record))
        expected.add("".join(text[start:end] for start, end in learned))
    found = [learned_text(prepared.tokenizer, rows[index]) for index in range(len(rows))]
    assert set(found) <= expected
    assert len(found) == prepared.meta["train"]["documents"]
    assert all(text.endswith("<|im_end|>") for text in found)


def test_packed_windows_learn_the_same_text_as_rows(prepared: Prepared) -> None:
    rows = windows(prepared, "val", context=512, packing=False)
    packed = windows(prepared, "val", context=512)
    in_rows = "".join(learned_text(prepared.tokenizer, rows[index]) for index in range(len(rows)))
    assert learned_text(prepared.tokenizer, packed[0]) == in_rows
    assert prepared.meta["val"]["bytes"] == len(in_rows.encode())


ADD = {"name": "add", "arguments": "2 2"}
OPENAI = {"messages": [
    {"role": "system", "content": "You add."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": ADD}]},
    {"role": "tool", "content": "4"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "Bye"},
]}  # fmt: skip
CALL = '<tool_call>{"name": "add", "arguments": "2 2"}</tool_call>'
SHAREGPT = {"conversations": [
    {"from": "system", "value": "You add."},
    {"from": "human", "value": "2 + 2?"},
    {"from": "gpt", "value": CALL},
    {"from": "observation", "value": "4"},
    {"from": "gpt", "value": "4"},
    {"from": "human", "value": "Thanks"},
    {"from": "gpt", "value": "Bye"},
]}  # fmt: skip
# Written down by hand: the text of the conversation in pieces, and whether the loss counts each.
BY_HAND = [
    ("<|im_start|>system\nYou add.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n", False),
    (f"{CALL}<|im_end|>", True),
    ("\n<|im_start|>tool\n4<|im_end|>\n<|im_start|>assistant\n", False),
    ("4<|im_end|>", True),
    ("\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n", False),
    ("Bye<|im_end|>", True),
    ("\n", False),
]


@pytest.mark.parametrize("packing", [True, False, "document", "best_fit"])
@pytest.mark.parametrize("record", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_the_mask_of_every_token_is_the_one_made_by_hand(record: object, packing: Any, tmp_path: Path) -> None:
    (tmp_path / "talk.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    made = prepare(ChatSource(str(tmp_path / "talk.jsonl")), Recipe(600, 0.0, 0), tmp_path / "p")
    assert_made_by_hand(made, BY_HAND, packing)


def assert_made_by_hand(made: Prepared, by_hand: list[tuple[str, bool]], packing: Any) -> None:
    rows = windows(made, "train", context=made.meta["train"]["tokens"], packing=packing)
    assert len(rows) == 1
    pieces = [(made.tokenizer.encode(text, add_special_tokens=False).ids, counts) for text, counts in by_hand]
    ids = [token for tokens, _ in pieces for token in tokens] + [0]
    mask = [counts for tokens, counts in pieces for _ in tokens] + [False]
    assert rows[0]["input_ids"].tolist() == ids
    assert rows[0]["labels"].tolist() == [
        token if counts else NO_LABEL for token, counts in zip(ids, mask, strict=True)
    ]


@pytest.mark.parametrize("record", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_what_carries_loss_is_printed_as_it_was_marked_by_hand(
    record: object, train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "talk.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    rows = ("data.packing=false", "data.val_fraction=0", "data.batch_size=1", LONG)
    monkeypatch.setenv("COLUMNS", "2000")
    train("data=chat", f"data.path='{tmp_path / 'talk.jsonl'}'", *rows, "debug.show_data=3")
    assert "".join(f"«{text}»" if counts else text for text, counts in BY_HAND) in capsys.readouterr().out
    assert not list(tmp_path.glob("runs/*/checkpoints/*")), "nothing is trained"


# The template of a tokenizer of one's own, which like most published ones does not mark the assistant's turns.
OWN = """{{ bos_token }}{% for message in messages %}
{%- if message.role == 'wizard' %}{{ raise_exception('no wizards') }}{% endif %}
{{- '<|' + message.role + '|>' }}{{ message.content | trim }}{{ '<|eot|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
# The same, marked; and one that, like Qwen's, writes thoughts into the last answer only.
MARKS = OWN.replace(
    "{{ message.content | trim }}{{ '<|eot|>\n' }}",
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim }}{{ '<|eot|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ message.content | trim }}{{ '<|eot|>\n' }}{% endif %}",
)
THINKS = OWN.replace(
    "{{ message.content", "{% if message.role == 'assistant' and loop.last %}{{ '(hm)' }}{% endif %}{{ message.content"
)
FIRST_ONLY = OWN.replace("{{ message.content | trim }}", "{% if loop.first %}{{ message.content | trim }}{% endif %}")
OWN_BY_HAND = [
    ("<|bos|><|system|>You add.<|eot|>\n<|user|>2 + 2?<|eot|>\n<|assistant|>", False),
    (f"{CALL}<|eot|>", True),
    ("\n<|tool|>4<|eot|>\n<|assistant|>", False),
    ("4<|eot|>", True),
    ("\n<|user|>Thanks<|eot|>\n<|assistant|>", False),
    ("Bye<|eot|>", True),
    ("\n", False),
]
THINKS_BY_HAND = [*OWN_BY_HAND[:-2], ("(hm)Bye<|eot|>", True), ("\n", False)]


def with_template(folder: Path, template: str, form: str = "file") -> TokenizerChoice:
    """Write a tokenizer that has a chat template, in one of the forms in which they are published."""
    folder.mkdir()
    special = ["<|bos|>", "<|eot|>", *(f"<|{role}|>" for role in ("system", "user", "assistant", "tool"))]
    train_tokenizer(["You add. Thanks Bye"] * 9, 300, 9, special=special).save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"eos_token": "<|endoftext|>", "bos_token": "<|bos|>"}
    if form == "file":
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        several = [{"name": "tool_use", "template": ""}, {"name": "default", "template": template}]
        config["chat_template"] = several if form == "several" else template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return TokenizerChoice(path=str(folder))


@pytest.mark.parametrize("packing", [True, "best_fit"])
@pytest.mark.parametrize("record", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
@pytest.mark.parametrize(
    ("template", "form", "by_hand"),
    [
        pytest.param(OWN, "file", OWN_BY_HAND, id="a file"),
        pytest.param(OWN, "config", OWN_BY_HAND, id="in the config"),
        pytest.param(OWN, "several", OWN_BY_HAND, id="one of several"),
        pytest.param(MARKS, "file", OWN_BY_HAND, id="marked"),
        pytest.param(THINKS, "file", THINKS_BY_HAND, id="with thoughts"),
    ],
)
def test_a_tokenizers_own_template_has_a_mask_made_by_hand(
    template: str, form: str, by_hand: list[tuple[str, bool]], record: object, packing: Any, tmp_path: Path
) -> None:
    file, choice = tmp_path / "talk.jsonl", with_template(tmp_path / "theirs", template, form)
    file.write_text(json.dumps(record) + "\n", encoding="utf-8")
    made = prepare(ChatSource(str(file)), Recipe(600, 0.0, 0), tmp_path / "p", choice=choice)
    assert_made_by_hand(made, by_hand, packing)
    assert made.tokenizer_files["chat_template.jinja"] == template
    assert made.tokenizer.token_to_id("<|im_start|>") is None
    # Other conversations are scored as the run's own are.
    again = encode_only(TokenizerChoice(path=str(made.folder)), ChatSource(str(file)), tmp_path)
    for name in ("bin", "loss_mask.bin"):
        assert (tmp_path / f"val.{name}").read_bytes() == (made.folder / f"train.{name}").read_bytes()
    assert again.meta["val"] == made.meta["train"]


@pytest.mark.parametrize(
    ("template", "turns", "said"),
    [
        (OWN.replace("'wizard'", "'tool'"), ["user", "tool"], "the chat template refuses it: no wizards"),
        (FIRST_ONLY, ["user", "user"], "leaves out what the role 'user' says"),
        (OWN.replace("{% endfor", "{{ loop.length }}{% endfor"), ["user", "assistant"], "message 2, an answer, begins"),
        (OWN.replace("{{ '<|eot|>\n' }}", ""), ["user", "assistant"], "writes nothing with which an answer ends"),
        (OWN, ["user", "assistant <|eot|>"], "an answer holds '<|eot|>'"),
    ],
)
def test_what_a_template_cannot_say_is_named_with_file_and_line(
    template: str, turns: list[str], said: str, tmp_path: Path
) -> None:
    messages = [{"role": turn.split()[0], "content": f"{turn} {n}"} for n, turn in enumerate(turns)]
    (tmp_path / "talk.jsonl").write_text("\n" + json.dumps(messages) + "\n", encoding="utf-8")
    source, choice = ChatSource(str(tmp_path / "talk.jsonl")), with_template(tmp_path / "theirs", template)
    with pytest.raises(UserError) as caught:
        prepare(source, Recipe(600, 0.0, 0), tmp_path / "p", choice=choice)
    assert f"{tmp_path / 'talk.jsonl'}:2 is not a conversation" in str(caught.value) and said in str(caught.value)


def test_what_a_template_escapes_is_not_lost() -> None:
    tojson = Template(OWN.replace("message.content | trim", "message.content | trim | tojson"))
    talk = [{"role": "tool", "content": '"4"\n'}, {"role": "assistant", "content": "4"}]
    text, spans = answered(talk, tojson.render, "<|eot|>")
    assert text == '<|tool|>"\\"4\\""<|eot|>\n<|assistant|>"4"<|eot|>\n'
    assert [text[start:end] for start, end in spans] == ['"4"<|eot|>']


def test_one_talks_in_the_template_that_was_trained(train: Callable[..., Path], tmp_path: Path) -> None:
    from lm.inference.chat import Talk
    from lm.inference.load import load

    with_template(tmp_path / "theirs", OWN)
    given = f"data.tokenizer.path={tmp_path / 'theirs'}"
    run = train("data=chat", f"data.path='{SHIPPED}'", given, "data.batch_size=1", "trainer.max_steps=1")
    trained = load(str(run))
    talk = Talk(trained, max_tokens=5, temperature=0, seed=0, top_k=None)
    said = "<|bos|><|system|>Be brief.<|eot|>\n<|user|>Hi<|eot|>\n<|assistant|>"
    assert talk.template.render(CHAT[:2], asks=True) == said
    assert talk.ends == {trained.tokenizer.token_to_id(name) for name in ("<|eot|>", "<|endoftext|>")}


def test_a_long_conversation_is_cut_at_the_context(prepared: Prepared) -> None:
    rows, whole = (windows(prepared, "train", context=size, packing=False) for size in (16, 512))
    assert all(
        rows[index]["input_ids"].tolist() == whole[index]["input_ids"][:16].tolist() for index in range(len(rows))
    )


def test_a_prompt_has_the_same_tokens_alone_as_in_training(prepared: Prepared) -> None:
    """Encoded as a whole, the last token of the prompt could reach into the answer."""
    text, ((start, _), *_) = rendered([{"role": "user", "content": "x"}, {"role": "assistant", "content": "\n\n  y"}])
    prompt = prepared.tokenizer.encode(text[:start]).ids
    document = Document("x", text, ((start, len(text)),))
    assert prepared.tokenizer.encode(next(document.parts())[0]).ids == prompt


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "Expecting property name"),
        ('{"messages": []}', "no list of messages"),
        ('{"messages": [{"role": "wizard", "content": "x"}]}', "the role 'wizard' is none of system"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "is not text"),
        ('{"messages": ["Hi"]}', "'Hi' is not a message"),
    ],
)
def test_what_is_no_conversation_is_named_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text(json.dumps({"messages": CHAT}) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        list(ChatSource(str(file)).documents())
    assert f"{file}:3" in str(caught.value) and said in str(caught.value)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"messages": "ä"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.jsonl:1 .*not UTF-8"):
        list(ChatSource(str(tmp_path)).documents())


def test_no_path_names_the_set_that_ships() -> None:
    with pytest.raises(UserError, match=r"devtools/chat\.jsonl"):
        ChatSource(None)


def test_the_shipped_set_has_both_forms() -> None:
    records = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert {next(iter(record)) for record in records} == {"messages", "conversations"}


def test_chat_data_train(train: Callable[..., Path]) -> None:
    folder = train(
        "data=chat", f"data.path='{SHIPPED}'", "data.packing=false", "data.batch_size=2", "trainer.max_steps=2"
    )
    assert (folder / "checkpoints" / "step-00000002").is_dir()


def test_show_marks_the_labels_with_and_without_colour(prepared: Prepared) -> None:
    data = LmData(ChatSource(str(SHIPPED)), batch_size=1, packing=False)
    data.open(prepared, context=256)
    text = shown(data, windows=2)
    assert text.startswith(LEGEND) and "train window 1" in text and "val window 1" in text
    assert text.count("«") == text.count("»") > 4 and "<|im_end|>»" in text and "tokens of padding" in text
    assert "\x1b[" not in text and "\x1b[" in shown(data, windows=1, force_terminal=True)


def shown(data: LmData, windows: int, **terminal: bool) -> str:
    written = io.StringIO()
    show(
        data,
        windows=windows,
        console=Console(file=written, width=400, color_system="truecolor" if terminal else None, **terminal),
    )
    return written.getvalue()
