"""The files beside a tokenizer.json, as a hub's folders have them: names of special tokens, a chat template."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROLES = ("eos", "bos", "pad")


def tokenizer_files(folder: Path) -> dict[str, str]:
    """Return the files of a folder, by name, with which AutoTokenizer.from_pretrained loads it."""
    found = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    return {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()}


def copy_tokenizer(source: Path, folder: Path, longest: int) -> None:
    """Write the tokenizer in `source` to `folder`, with the length of text beyond which it warns."""
    files = tokenizer_files(source)
    config = {**json.loads(files.get("tokenizer_config.json", "{}")), "model_max_length": longest}
    files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def special_tokens(folder: Path) -> dict[str, str]:
    """Return the names of `ROLES` that tokenizer_config.json or special_tokens_map.json in a folder gives."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
            entries = {role: config.get(f"{role}_token") for role in ROLES}
        except (OSError, ValueError, AttributeError):
            continue
        texts = {role: entry.get("content") if isinstance(entry, dict) else entry for role, entry in entries.items()}
        found |= {role: text for role, text in texts.items() if isinstance(text, str)}
    return found


def chat_template(folder: Path) -> str | None:
    """Return the chat template that lies in a folder: a file of its own or, in older ones, in tokenizer_config.json."""
    with suppress(OSError):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
        return found if isinstance(found, str) else None
    return None


def tokenizer_config(names: dict[str, str], special: Sequence[str]) -> str:
    """Return the content of the tokenizer_config.json with which AutoTokenizer loads a folder."""
    config: dict[str, Any] = {f"{role}_token": name for role, name in names.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if special:
        config["extra_special_tokens"] = list(special)
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n"
