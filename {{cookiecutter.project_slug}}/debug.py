"""Debug by hand: python debug.py [overrides]. As train.py with +debug=default, unless another preset is named."""

import sys

from lm.cli import run

if __name__ == "__main__":
    if not any(word.lstrip("+").startswith("debug=") for word in sys.argv[1:]):
        sys.argv.append("+debug=default")
    run("lm.fit:train")
