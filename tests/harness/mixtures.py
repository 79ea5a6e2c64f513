"""A mixture of three sets, small, each told from the others by its text."""

import json
from pathlib import Path

WEIGHTS = {"poems": 0.5, "jsonl": 0.3, "talks": 0.2}


def three_sets(corpus: Path, folder: Path) -> str:
    """Return the override of a folder of text, a table of rows and conversations, at 0.5, 0.3 and 0.2."""
    table, talks = folder / "rows.jsonl", folder / "talks.jsonl"
    table.write_text("".join(json.dumps({"story": f"row {n} " * 9}) + "\n" for n in range(30)), encoding="utf-8")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    talks.write_text("".join(json.dumps({"messages": turns * (n % 7 + 1)}) + "\n" for n in range(30)), encoding="utf-8")
    return (
        f"data.sets={{poems:{{data:text,path:'{corpus}',weight:{WEIGHTS['poems']}}},"
        f"jsonl:{{path:'{table}',column:story,weight:{WEIGHTS['jsonl']}}},"
        f"talks:{{data:chat,path:'{talks}',weight:{WEIGHTS['talks']}}}}}"
    )
