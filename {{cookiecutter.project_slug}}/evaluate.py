"""Perplexity and bits per byte of a run: python evaluate.py runs/NAME [data.path=OTHER] [--stride N] [--json]."""

from argparse import ArgumentTypeError

from harness.cli import ArgumentParser, add_trust, number, tool


def path_of(word: str) -> str:
    if not word.startswith("data.path="):
        raise ArgumentTypeError(f"a model is scored as it was trained: {word!r} cannot change it, only data.path=PATH")
    return word.removeprefix("data.path=")


def arguments() -> ArgumentParser:
    parser = ArgumentParser(description="Score a trained model on the text that its run held out, or on any other.")
    parser.add_argument("path", metavar="RUN", help="a run folder, or one of its checkpoint folders")
    parser.add_argument("--data", metavar="PATH", help="score this text instead, read as the run reads its own")
    parser.add_argument("overrides", metavar="data.path=PATH", nargs="*", type=path_of, help="the same as --data PATH")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--stride",
        metavar="N",
        type=number(int, 1),
        help="score also in windows that begin N tokens apart: each token is predicted after at least context - N",
    )
    parser.add_argument(
        "--choices", metavar="FILE", help="answer multiple-choice questions instead, JSON lines in HellaSwag's format"
    )
    add_trust(parser)
    return parser


if __name__ == "__main__":
    tool("media.evaluate:evaluate", arguments())
