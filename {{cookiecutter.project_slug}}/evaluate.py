"""Perplexity and bits per byte of a run: python evaluate.py runs/NAME [--json]."""

import argparse

from harness.cli import tool


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score a trained model on the text that its run held out.")
    parser.add_argument("path", metavar="RUN", help="a run folder, or one of its checkpoint folders")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    tool("lm.inference.text:evaluate", arguments())
