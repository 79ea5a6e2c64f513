"""Check the answers before a file is written. Nothing else happens here: no writing, no network, no input."""

import json
import re
import sys

# As typed: cookiecutter.json has replaced its separators by then, as the folder of 'a/b' would leave 'a' behind.
SLUG = json.loads(r""" {{ cookiecutter.__slug_as_typed | tojson }} """)
ONE_LINERS = json.loads(
    r""" {{ {"description": cookiecutter.description, "author": cookiecutter.author} | tojson }} """
)

DISTRIBUTION_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def complaint() -> str:
    """Return what is wrong with the answers, or an empty string."""
    for question, answer in ONE_LINERS.items():
        if any(ord(letter) < 32 for letter in answer):
            return f"The {question} has a line break or another control character. Write it in one line"
    if not SLUG.strip():
        return "The project slug is empty"
    if "/" in SLUG or "\\" in SLUG:
        return f"The project slug {SLUG!r} has a path separator"
    if SLUG.startswith("."):
        return f"The project slug {SLUG!r} starts with a dot"
    if WINDOWS_DEVICE.fullmatch(SLUG):
        return f"The project slug {SLUG!r} is a device name on Windows"
    if not DISTRIBUTION_NAME.fullmatch(SLUG):
        return (
            f"The project slug {SLUG!r} is no distribution name "
            "(ASCII letters, digits, '-', '_' and '.', with a letter or digit at both ends)"
        )
    return ""


def valid_slug() -> str:
    """Return the nearest slug that would pass."""
    near = re.sub(r"[^A-Za-z0-9._-]+", "-", SLUG).strip("-._") or "my-lm"
    return near.split(".")[0] + "-lm" if WINDOWS_DEVICE.fullmatch(near) else near


if problem := complaint():
    sys.exit(f"{problem}. Valid would be: project_slug={valid_slug()}")
