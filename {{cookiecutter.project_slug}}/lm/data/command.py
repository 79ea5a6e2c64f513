"""Prepare data alone, as a run would: python -m lm prepare data=text data.path=poems/ [overrides]

Takes the same overrides as train.py, writes where data.prepared says and prints the folder. What is there already is
compared with its checksums; what a kill interrupted goes on where it was.
"""

import argparse
import logging

from omegaconf import OmegaConf

from harness.config.check import check
from harness.config.compose import compose
from harness.run import environment

TARGET = "lm.data.command:prepare"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py: data=… data.path=… model=…")
    return parser


def prepare(overrides: list[str]) -> None:
    """Print where the data lie and what they hold."""
    cfg = compose(overrides)
    check(cfg)
    environment.apply(cfg.env)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from lm.data.sets import prepare_all  # imports what --help must not wait for

    vocabulary = None if cfg.model.get("pretrained") else OmegaConf.select(cfg, "model.config.vocab_size")
    if vocabulary is None:  # only the model knows, and to ask it takes torch: 400 MB that preparing does not need
        from lm.models.build import model_config, vocabulary_size

        vocabulary = vocabulary_size(cfg.model, model_config(cfg.model))
    for name, prepared in prepare_all(cfg, vocabulary, sums=True).items():
        print(f"{name}: {prepared.folder.as_posix()}" if name else prepared.folder.as_posix())
        for split in ("train", "val"):
            counts = (f"{prepared.meta[split][unit]:,} {unit}" for unit in ("documents", "tokens", "bytes"))
            print(f"  {split:<6}{', '.join(counts)}")
