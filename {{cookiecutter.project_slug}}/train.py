"""Train, or continue: python train.py [overrides]. The story of a run is in lm/fit.py."""

from harness.cli import run

if __name__ == "__main__":
    run("lm.fit:train")
