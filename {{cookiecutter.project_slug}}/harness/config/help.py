"""What `python train.py --help` prints: the choices, the keys and the flags, read from conf/ and the schema."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from textwrap import fill

from harness.config import schema
from harness.config.compose import choices, groups

USAGE = """Train, or continue: the same command continues its own run.

  python train.py                                          the defaults: the 14m model on the standard library
  python train.py model=30m optimizer.lr=3e-4              another experiment, in a folder of its own
  python train.py data=text data.path=poems/               your own text
  python train.py +debug=cpu                               a debug preset
  python train.py -m model=14m,30m optimizer.lr=1e-3,3e-4  a sweep
"""
FLAGS = """Flags, from Hydra
  -m, --multirun        one run for every combination of comma-separated values
  --cfg job             print the config instead of training (with --resolve, every value)
  --info defaults       print which file answers which question
  --hydra-help          all of Hydra's flags
"""
# Lightning has many; these are typed every day. The others work as well, under Lightning's own names.
EVERYDAY = {
    "max_steps",
    "max_epochs",
    "precision",
    "devices",
    "accumulate_grad_batches",
    "val_check_interval",
    "limit_val_batches",
}


def help_page() -> str:
    """Return the page."""
    return "\n".join(
        [
            USAGE,
            "Choices, as GROUP=NAME (debug as +debug=NAME)",
            *_choices(),
            "",
            "Keys, as KEY=VALUE",
            *_keys(),
            "",
            FLAGS,
        ]
    )


def _choices() -> Iterator[str]:
    for group in groups():
        yield fill(", ".join(choices(group)), 100, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)


def _keys() -> Iterator[str]:
    for field in fields(schema.Root):
        if not is_dataclass(field.type):
            yield _line(field.name, field.metadata["doc"])
            continue
        for inner in fields(field.type):
            if field.name != "trainer" or inner.name in EVERYDAY:
                yield _line(f"{field.name}.{inner.name}", inner.metadata["doc"])


def _line(name: str, doc: str) -> str:
    return fill(doc, 110, initial_indent=f"  {name:<33} ", subsequent_indent=" " * 36)
