"""What a checkpoint's manifest may say, which may come from anybody."""

import json
import re
import zlib
from typing import Any

# A manifest takes about a hundred bytes a file: what is longer was not written by us, and would fill the memory.
LARGEST_MANIFEST = 1 << 24
FILE_NAME = re.compile(r"[\w][\w.+-]*")  # a file of the checkpoint's own folder: no separator, no drive, not hidden


def manifest_checksum(manifest: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(manifest, sort_keys=True).encode()):08x}"


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raise ValueError unless everything that is used without asking has the right type."""
    numbers = [manifest["schema"], manifest["step"], manifest["sequence"]]
    numbers += [file["bytes"] for file in manifest["files"].values()]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a number is not one")
    if bad := [name for name in manifest["files"] if not FILE_NAME.fullmatch(name)]:
        raise ValueError(f"{bad[0]!r} is not the name of a file of a checkpoint")
    if not isinstance(manifest.get("score"), int | float | None):
        raise ValueError("the score is not a number")
