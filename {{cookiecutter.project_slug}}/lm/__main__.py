"""The commands beside train.py, debug.py, generate.py and evaluate.py: python -m lm NAME …"""

from harness.cli import Command, run_command

COMMANDS = [
    Command("report", "harness.report.command", "what happened in a run, or in several: in the terminal and as a page"),
    Command("replay", "harness.replay.command", "why a step was skipped: the module, and whether data or precision"),
    Command(
        "verify-resume", "harness.verify_resume", "prove that resuming is exact with a config of your own"
    ),
]

if __name__ == "__main__":
    run_command("python -m lm", COMMANDS)
