"""Text from a model: python generate.py runs/NAME --prompt "class Node:"."""

from harness.cli import ArgumentParser, add_trust, number, tool


def arguments() -> ArgumentParser:
    parser = ArgumentParser(description="Print a prompt and what a trained model says next.")
    parser.add_argument("path", metavar="RUN", help="a run folder, or one of its checkpoint folders")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompt", help="what to continue (default: that of the run's samples)")
    what.add_argument(
        "--prompts", metavar="FILE", help="continue each line of this file; prints JSON lines of prompt and text"
    )
    what.add_argument("--chat", action="store_true", help="talk with a model that was trained on conversations")
    for kind in ("image", "audio"):
        parser.add_argument(
            f"--{kind}",
            metavar="FILE",
            action="append",
            default=[],
            help=f"an {kind} file, shown before the prompt",
        )
    parser.add_argument(
        "--max-tokens", type=number(int, 1), default=200, help="stop after so many tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature", type=number(float, 0), default=0.8, help="0 takes the most likely token (default: %(default)s)"
    )
    parser.add_argument(
        "--top-k",
        type=number(int, 0),
        default=50,
        help="choose among the k most likely; 0 for all (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**63 - 1),
        default=0,
        help="the same seed gives the same text (default: %(default)s)",
    )
    add_trust(parser)
    return parser


if __name__ == "__main__":
    tool("media.generate:generate", arguments())
