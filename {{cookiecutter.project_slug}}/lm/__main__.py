"""The commands beside train.py, debug.py, generate.py and evaluate.py: python -m lm NAME …"""

from harness.commands import Command, run_command

TRAIN = {"train": "lm.fit:train"}  # what a command trains a config with

COMMANDS = [
    Command("report", "harness.report.command", "what happened in a run, or in several: in the terminal and as a page"),
    Command("replay", "harness.replay.command", "why a step was skipped: which module, data or precision", TRAIN),
    Command("prepare", "lm.data.command", "prepare data alone: tokenizer and tokens, in the folder of data.prepared"),
    Command("export", "media.command", "hand a model over: a folder that transformers loads, proven to be the same"),
    Command("verify-resume", "harness.verify_resume", "prove that resuming is exact with your own config", TRAIN),
]

if __name__ == "__main__":
    run_command("python -m lm", COMMANDS)
