"""Train, or continue: python train.py [overrides]. The story of a run is in lm/fit.py."""

from lm.cli import run

if __name__ == "__main__":
    run("lm.fit:train")
