"""Hand a trained model over, to be loaded by transformers alone: python -m lm export RUN OUT

OUT gets config, safetensors, tokenizer, generation config and a model card. It is loaded back, its logits are compared
with the run's on 64 texts, and it appears only if they are the same.
"""

import argparse

from harness.cli import add_trust

TARGET = "lm.inference.export:export"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="RUN", help="a run folder, or one of its checkpoint folders")
    parser.add_argument("out", metavar="OUT", help="the folder to write, which must not be there yet")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--adapter", action="store_true", help="the adapter of model=lora alone, without merging it")
    how.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="the type of the weights"
    )
    parser.add_argument("--push", metavar="NAME", help="upload it, too, as a private model (after: hf auth login)")
    add_trust(parser)
    return parser
