"""Hand a trained model over, as lm/inference/command.py does, also one that sees: python -m lm export RUN OUT"""

from lm.inference.command import arguments as arguments

TARGET = "media.export:export"
