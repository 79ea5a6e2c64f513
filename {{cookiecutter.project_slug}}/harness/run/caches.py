"""Where Hugging Face's libraries keep things on this machine, and what can be wrong with that.

HF_HOME               the root of the three below, and of the login token        ~/.cache/huggingface
HF_HUB_CACHE          downloads: models and data set repositories                HF_HOME/hub
HF_DATASETS_CACHE     data sets made of them, and results of `map`               HF_HOME/datasets
HF_TOKEN_PATH         the login                                                  HF_HOME/token
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

# Each moves a part of HF_HOME away from it.
PARTS = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE",
    "HF_XET_CACHE", "HF_MODULES_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH", "HF_DATASETS_EXTRACTED_DATASETS_PATH",
)  # fmt: skip


def home(environ: Mapping[str, str] = os.environ) -> Path:
    above = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(environ.get("HF_HOME") or above / "huggingface").expanduser()


def hub(environ: Mapping[str, str] = os.environ) -> Path:
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(named or home(environ) / "hub").expanduser()


def token(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("HF_TOKEN_PATH") or home(environ) / "token").expanduser()


def isolated(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """Return the variables that move every cache below `folder`, while the login stays where it is."""
    return {**dict.fromkeys(PARTS), "HF_HOME": str(folder), "HF_TOKEN_PATH": str(token(environ))}


def dangling_links(environ: Mapping[str, str] = os.environ) -> Iterator[Path]:
    """Yield links in the folder of downloads whose file is gone, as when a cache was cleared by hand.

    huggingface_hub takes such a file for absent. It downloads it again, or, offline, says that it is not cached.
    """
    for folder, _, names in os.walk(hub(environ)):
        if "snapshots" in Path(folder).parts:  # links are nowhere else
            yield from (path for name in names if (path := Path(folder, name)).is_symlink() and not path.exists())


def complaints(environ: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the variables, with its cure. Links are left to `dangling_links`."""
    for name in ("HF_HOME", "HF_TOKEN_PATH", *PARTS):
        if environ.get(name, "").startswith("~"):
            yield (
                f"{name}={environ[name]} has a ~ that some libraries expand and others take for a folder called ~.",
                f"Write the path out: {name}={Path(environ[name]).expanduser()}",
            )
    for name in ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE"):
        if name in environ:
            yield f"{name} is set, and transformers no longer reads it.", "Use HF_HOME or HF_HUB_CACHE instead."
    default = home({name: value for name, value in environ.items() if name != "HF_HOME"}) / "token"
    if not environ.get("HF_TOKEN") and not token(environ).exists() and default.exists():
        yield (
            f"HF_HOME or HF_TOKEN_PATH moved the login: it is looked for in {token(environ)} and lies in {default}.",
            f"Set HF_TOKEN_PATH={default}",
        )
