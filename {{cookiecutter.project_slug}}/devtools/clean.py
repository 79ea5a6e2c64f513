"""Clear what debug runs have left: python devtools/clean.py [--outputs] [--prepared] [--datasets] [--all]

Without a flag, outputs, prepared data and Hugging Face's prepared data sets; --all takes the downloads of isolated runs
as well. Only folders below devtools/temp_debug/ are ever touched, and none that a debug run is using.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it works in a project that is not installed

from harness.errors import UserError
from harness.run import debug_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, folder in debug_folder.PARTS.items():
        parser.add_argument(f"--{part}", action="store_true", help=f"clear temp_debug/*/{folder}")
    chosen = [part for part, wanted in vars(parser.parse_args()).items() if wanted]
    try:
        said = list(debug_folder.clear_unused(chosen or debug_folder.EACH_LAUNCH))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    print("\n".join(said) or f"Nothing to remove in {debug_folder.ROOT}.")


if __name__ == "__main__":
    main()
