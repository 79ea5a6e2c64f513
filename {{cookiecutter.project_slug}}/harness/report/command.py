"""Read one run or several: python -m lm report RUN [RUN ...] [--json]

Prints the analysis and writes report.html, one page that works without a network: into the run's folder, or with
several runs into the folder around the first.
"""

import argparse
from pathlib import Path

TARGET = "harness.report.terminal:report"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = "a run folder, such as runs/14m-stdlib-1f0c9a3e"
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=run)
    as_json = "print JSON, for machines, and write no page"
    parser.add_argument("--json", dest="as_json", action="store_true", help=as_json)
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the page here instead")
    return parser
