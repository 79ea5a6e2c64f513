"""Every file in conf/ says something that can be built: yours, too, as soon as it is there."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONVERSATIONS, quoted
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from harness.config.check import check
from harness.config.compose import CONF, choices, compose, groups
from harness.errors import UserError
from lm.keys import Data, Model
from lm.models import build

# Keys that stand beside a class's own arguments and are read by this project.
OURS = {"data": Data.kept, "model": Model.kept, "trainer": {"mps_fix"}}
FILES = [f"{group}={name}" for group in groups() for name in choices(group)]


def typed(choice: str) -> str:
    """Debug presets are added to the defaults list, everything else is in it."""
    return f"+{choice}" if choice.startswith("debug=") else choice


def targets(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every mapping below `node` that says what to build, with its place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))


@pytest.mark.parametrize("choice", FILES)
def test_every_file_passes_the_check_and_names_what_exists(choice: str) -> None:
    if choice == "sweep=optuna":
        pytest.importorskip("optuna", reason="an extra")
    cfg = compose([typed(choice)])
    check(cfg)
    for place, node in targets(OmegaConf.to_container(cfg, resolve=True)):
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = {key for key in node if not key.startswith("_")} - set(parameters) - OURS.get(place, set())
        assert takes_any or not unknown, f"{place}: {node['_target_']} does not take {', '.join(sorted(unknown))}."


def test_presets_can_be_combined() -> None:
    cfg = compose(["+debug=[cpu,overfit]"])
    check(cfg)
    assert (cfg.trainer.accelerator, cfg.trainer.overfit_batches) == ("cpu", 1)


def test_a_typo_is_answered_by_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean optimizer.lr?"):
        check(compose(["optimizer.lrr=1"]))


# pretrained and lora are as large as what they load.
@pytest.mark.parametrize("name", sorted({*choices("model")} - {"pretrained", "lora"}))
def test_a_model_is_about_as_large_as_its_name(name: str) -> None:
    model = compose([f"model={name}"]).model
    outline = build.outline(model, build.model_config(model))  # on the meta device: it takes no memory
    parameters = sum(parameter.numel() for parameter in outline.parameters())
    assert parameters > 0
    if size := re.fullmatch(r"(\d+)([mb])", name):
        assert parameters == pytest.approx(int(size[1]) * {"m": 1e6, "b": 1e9}[size[2]], rel=0.11)


@pytest.mark.parametrize("name", choices("callbacks"))
def test_callbacks_can_be_built(name: str) -> None:
    from lightning.pytorch import Callback

    for entry in compose([f"callbacks={name}"]).callbacks.values():
        assert isinstance(instantiate(entry, _convert_="all"), Callback)


@pytest.mark.parametrize("name", choices("logger"))
def test_loggers_can_be_built(name: str, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import Logger

    for entry in compose([f"logger={name}", f"run.root={tmp_path}"]).logger.values():
        assert isinstance(instantiate(entry, _convert_="all"), Logger)


TABLES = {"csv": b"text,n\na poem,1\n", "jsonl": b'{"text": "a poem", "n": 1}\n'}


NOT_MADE_HERE = {"hf", "wikitext", "tokens", "mixture"}  # data sets, arrays, and what has no source of its own


@pytest.mark.parametrize("name", [name for name in choices("data") if name not in NOT_MADE_HERE])
def test_a_source_of_data_has_documents(name: str, corpus: Path) -> None:
    data = compose([f"data={name}"]).data
    if data.path is None:
        data.path = (CONVERSATIONS if name == "chat" else quoted(corpus)).strip("'")
    if name in TABLES:
        file = corpus.parent / f"table.{name}"
        file.write_bytes(TABLES[name])
        data.path = str(file)
    source = instantiate(data.source)
    source.check()
    assert next(source.documents()).text


def test_an_experiment_file_is_a_difference_from_the_defaults() -> None:
    for file in (CONF / "experiment").glob("*.yaml"):
        assert compose([f"experiment={file.stem}"]) != compose()
