"""Debug by hand: python debug.py [overrides]. As train.py +debug=default [overrides], in a cleared debug folder."""

from harness.cli import run

if __name__ == "__main__":
    run("lm.fit:train", debug=True)
