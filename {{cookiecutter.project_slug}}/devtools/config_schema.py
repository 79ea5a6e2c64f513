"""Write .vscode/schema/ from the declared keys (harness/config/schema.py, media/keys.py): devtools/config_schema.py

One JSON schema for the whole config, and one for each group, whose files hold what is inside the group.
.vscode/settings.json says which YAML file has which. Run it after a change to a key; a test compares.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it works in a project that is not installed

from harness.config.kinds import Section
from media.keys import Keys  # those of lm/keys.py, and encoders

FOLDER = ROOT / ".vscode" / "schema"
GROUPS = ("model", "data", "optimizer", "scheduler", "trainer")
INTERPOLATION = {"type": "string", "pattern": r"\$\{"}  # its value is known only when the config is composed


def schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by the name of its file."""
    parts: dict[str, Any] = Keys.model_fields
    return {"train": _object(Keys), **{name: _object(parts[name].annotation) for name in GROUPS}}


def _object(model: type[BaseModel]) -> dict[str, Any]:
    whole = model.model_json_schema()
    definitions = whole.pop("$defs", {})
    found = _inlined(whole, definitions)
    properties = {name: _key(name, model, content) for name, content in found["properties"].items()}
    properties["defaults"] = {"type": "array", "description": "the files that this one builds on"}
    if model is Keys:
        properties["hydra"] = {"description": "Hydra's own settings"}
    else:
        said = "the class or function that is called with these keys"
        properties["_target_"] = {"type": "string", "description": said}
    # Beyond their own keys, some take the arguments of whatever class `_target_` names.
    open_ended = issubclass(model, Section) and model.kept is not None
    return {"type": "object", "properties": properties, "additionalProperties": open_ended}


def _key(name: str, model: type[BaseModel], content: dict[str, Any]) -> dict[str, Any]:
    inner: Any = model.model_fields[name].annotation
    if isinstance(inner, type) and issubclass(inner, Section):
        return _object(inner)
    said = {"description": content.pop("description", "")}
    for noise in ("default", "title"):
        content.pop(noise, None)
    return {**said, "anyOf": [*content.pop("anyOf", [content]), INTERPOLATION]} if content else said


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Replace references by what they refer to: editors show it better."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in node.items() if name != "title"}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
