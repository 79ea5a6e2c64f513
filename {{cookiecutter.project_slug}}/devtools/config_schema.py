"""Write .vscode/schema/ from harness/config/schema.py: python devtools/config_schema.py

One JSON schema for the whole config, and one for each group, whose files hold what is inside the group.
.vscode/settings.json says which YAML file has which. Run it after a change to harness/config/schema.py; a test
compares.
"""

import json
import sys
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it works in a project that is not installed

from harness.config import schema

FOLDER = ROOT / ".vscode" / "schema"
GROUPS = (schema.Model, schema.Data, schema.Optimizer, schema.Scheduler, schema.Trainer)
# Beyond their own keys, these take the arguments of whatever class `_target_` names.
OPEN = (schema.Optimizer, schema.Scheduler)
TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null"}
LIMITS = {"least": "minimum", "above": "exclusiveMinimum", "most": "maximum"}
INTERPOLATION = {"type": "string", "pattern": r"\$\{"}  # its value is known only when the config is composed


def schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by the name of its file."""
    whole = _object(schema.Root, hydra={"description": "Hydra's own settings"})
    return {"train": whole, **{group.__name__.lower(): _object(group) for group in GROUPS}}


def _object(model: type, **more: Any) -> dict[str, Any]:
    properties = {field.name: _key(field) for field in fields(model)}
    properties |= {"defaults": {"type": "array", "description": "the files that this one builds on"}, **more}
    if model in GROUPS:
        properties["_target_"] = {
            "type": "string",
            "description": "the class or function that is called with these keys",
        }
    return {"type": "object", "properties": properties, "additionalProperties": model in OPEN}


def _key(field: "Field[Any]") -> dict[str, Any]:
    if is_dataclass(field.type):
        return _object(field.type)
    said = {"description": field.metadata["doc"]}
    if choices := field.metadata.get("choices"):
        return {**said, "anyOf": [{"enum": list(choices)}, INTERPOLATION]}
    if field.type is Any:
        return said
    types = [TYPES[part] for part in get_args(field.type) or (field.type,)]
    limits = {LIMITS[name]: limit for name, limit in field.metadata.items() if name in LIMITS}
    return {**said, "anyOf": [{"type": types, **limits}, INTERPOLATION]}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
