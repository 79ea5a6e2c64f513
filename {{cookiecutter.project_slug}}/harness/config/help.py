"""What `python train.py --help` prints: the choices, the keys and the flags, read from conf/ and the schema."""

from collections.abc import Iterator
from textwrap import fill

from harness.config.kinds import is_section
from harness.config.names import choices, groups, keys_of_experiment

USAGE = """Train, or continue: the same command continues its own run.

  python train.py                                          the defaults: the 14m model on the standard library
  python train.py model=30m optimizer.lr=3e-4              another experiment, in a folder of its own
  python train.py data=text data.path=poems/               your own text
  python train.py +debug=cpu                               a debug preset
  python train.py -m model=14m,30m optimizer.lr=1e-3,3e-4  a sweep
"""
FLAGS = """Flags
  -m, --multirun        one run for every combination of comma-separated values
  --plan                memory, steps, hours and disk of it, without training; with -m the sum of a sweep
  --cfg job             print the config instead of training (with --resolve, every value)
  --info defaults       print which file answers which question
  --hydra-help          all of Hydra's flags
"""
# Lightning has many; these are typed every day. The others work as well, under Lightning's own names.
EVERYDAY = {
    "max_steps", "max_epochs", "precision", "devices", "accumulate_grad_batches", "val_check_interval",
    "limit_val_batches",
}  # fmt: skip


def help_page() -> str:
    choices, keys = "Choices, as GROUP=NAME (debug as +debug=NAME)", "Keys, as KEY=VALUE"
    return "\n".join([USAGE, choices, *_choices(), "", keys, *_keys(), "", FLAGS])


def _choices() -> Iterator[str]:
    for group in groups():
        yield fill(", ".join(choices(group)), 100, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)


def _keys() -> Iterator[str]:
    for name, info in keys_of_experiment().model_fields.items():
        inner = info.annotation
        if not is_section(inner):
            yield _line(name, info.description or "")
            continue
        for key, field in inner.model_fields.items():
            if name != "trainer" or key in EVERYDAY:
                yield _line(f"{name}.{key}", field.description or "")


def _line(name: str, doc: str) -> str:
    return fill(doc, 110, initial_indent=f"  {name:<33} ", subsequent_indent=" " * 36)
