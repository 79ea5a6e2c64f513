"""harness/run/caches.py: where the caches are, what isolating moves, and what is wrong with them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.run import caches


def cached(hub: Path, name: str, *, gone: bool = False) -> Path:
    """Make a file as huggingface_hub stores it: a link in snapshots/ to a blob."""
    blob, link = hub / "models--a--b/blobs" / name, hub / "models--a--b/snapshots/1" / name
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not gone:
        blob.write_text("{}", encoding="utf-8")
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HF_HOME": "/hf"},
        {"HF_HOME": "/hf", "HF_HUB_CACHE": "/elsewhere/hub", "HF_TOKEN_PATH": "/elsewhere/token"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_locations_are_those_of_huggingface_hub_itself(environ: dict[str, str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    program = "import huggingface_hub.constants as c; print(c.HF_HOME, c.HF_HUB_CACHE, c.HF_TOKEN_PATH)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        env=clean | environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    ours = (caches.home(clean | environ), caches.hub(clean | environ), caches.token(clean | environ))
    assert [Path(word) for word in done.stdout.split()] == list(ours)


def test_isolated_moves_every_cache_and_keeps_the_login(tmp_path: Path) -> None:
    before = {"HF_HOME": "/hf", "HF_HUB_CACHE": "/elsewhere/hub", "HF_MODULES_CACHE": "/elsewhere/modules"}
    isolated = caches.isolated(tmp_path, before)
    after = {name: str(value) for name, value in (before | isolated).items() if value is not None}
    assert after == {"HF_HOME": str(tmp_path), "HF_TOKEN_PATH": str(Path("/hf/token"))}
    assert caches.hub(after) == tmp_path / "hub"


def test_a_link_whose_file_is_gone_is_found_and_a_good_one_is_not(tmp_path: Path) -> None:
    cached(tmp_path, "config.json")
    broken = cached(tmp_path, "tokenizer_config.json", gone=True)
    assert list(caches.dangling_links({"HF_HUB_CACHE": str(tmp_path)})) == [broken]
    assert list(caches.dangling_links({"HF_HUB_CACHE": str(tmp_path / "nothing")})) == []


def test_complaints_name_the_variable_and_its_cure(tmp_path: Path) -> None:
    assert list(caches.complaints({"HF_HOME": str(tmp_path)})) == []
    said = list(caches.complaints({"HF_DATASETS_CACHE": "~/data", "TRANSFORMERS_CACHE": "/x"}))
    assert [cure for _, cure in said] == [
        f"Write the path out: HF_DATASETS_CACHE={Path.home() / 'data'}",
        "Use HF_HOME or HF_HUB_CACHE instead.",
    ]


def test_a_login_left_behind_by_hf_home_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/token").write_text("secret", encoding="utf-8")
    environ = {"XDG_CACHE_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "new")}
    ((what, cure),) = caches.complaints(environ)
    assert "moved the login" in what and cure == f"Set HF_TOKEN_PATH={tmp_path / 'huggingface' / 'token'}"
    assert list(caches.complaints({**environ, "HF_TOKEN": "x"})) == []
    assert list(caches.complaints({**environ, "HF_TOKEN_PATH": str(tmp_path / "huggingface/token")})) == []
