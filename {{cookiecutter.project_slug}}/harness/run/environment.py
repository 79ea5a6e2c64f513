"""Environment variables, set before the libraries that read them are imported.

Hugging Face's libraries and torch read theirs once, at import. Set later, some are ignored and some are believed by
one library only: after `import huggingface_hub`, a new HF_HOME moves the data sets and leaves the downloads behind.
So `apply` runs first, and refuses when it is too late.

Who wins, strongest first, as in VS Code's debugger: a preset's `env:` block (its `env`), the variables that the
process was started with, the file `.env` (its `envFile`).
"""

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from harness.config.secrets import MASK, learn
from harness.errors import UserError

log = logging.getLogger(__name__)

Value = str | int | float | bool | None

# Names or beginnings of names. Not here, because it is read at every use: TOKENIZERS_PARALLELISM, HYDRA_FULL_ERROR.
READ_AT_IMPORT = {
    "huggingface_hub": ("HF_", "HUGGINGFACE_", "XDG_CACHE_HOME", "TRANSFORMERS_OFFLINE"),
    "datasets": ("HF_", "XDG_CACHE_HOME"),
    "transformers": ("HF_", "TRANSFORMERS_", "XDG_CACHE_HOME"),
    "torch": ("PYTORCH_", "TORCH_", "CUDA_VISIBLE_DEVICES", "OMP_", "MKL_"),
}

# One line of .env: NAME=value, with or without `export`. Everything else (comments, blank lines) is skipped.
LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*")
REFERENCE = re.compile(r"(?<!\\)\$\{(\w+)\}")


def apply(env: Mapping[str, Value], environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables, for this process and its children; a null removes one. All or none of them.

    Raises UserError when a library that reads a changed variable at import has been imported already.
    """
    # A saved config has a mask where the secret was, which is not what any program should take for it.
    wanted = {name: text for name, value in env.items() if (text := _text(value)) != MASK}
    changed = {name: value for name, value in wanted.items() if environ.get(name) != value}
    late = [
        f"{name} ({module})"
        for name in changed
        for module, beginnings in READ_AT_IMPORT.items()
        if name.startswith(beginnings) and module in sys.modules
    ]
    if late:
        raise UserError(
            f"Too late to set {', '.join(late)}: the library in brackets reads it at import and is imported already.",
            cure="Set it in the shell or in .env, or start a new process.",
        )
    for name, value in changed.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    learn(changed)
    if changed:  # names only: values may be secrets
        log.debug("environment: set %s", ", ".join(sorted(changed)))


def read_dotenv(path: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what the file adds to the environment: its variables, without those that are set already.

    The file may be missing. Its grammar is VS Code's: quotes around a whole value are dropped, `${NAME}` stands for an
    earlier line or for the environment, `\\$` for a dollar, and a `#` after a value belongs to the value.
    """
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path} ({error}).", cure="Save it as UTF-8 text, or remove it.") from error
    for line in text.split("\n"):
        match = LINE.fullmatch(line)
        if match:
            found[match[1]] = _expand(_unquote(match[2]), {**found, **environ})
    return {name: value for name, value in found.items() if name not in environ}


def _text(value: Value) -> str | None:
    """As a shell would have passed it: YAML's `false` and `0` are fine, and `~/` is the home folder."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    # Hugging Face's libraries expand `~` in some of their variables and make a folder called `~` for the others.
    return str(Path(text).expanduser()) if text.startswith("~/") else text


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1].replace("\\n", "\n")
    return value


def _expand(value: str, known: Mapping[str, str]) -> str:
    return REFERENCE.sub(lambda match: known.get(match[1], ""), value).replace("\\$", "$")
