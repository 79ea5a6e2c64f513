"""How long a command takes to answer, and to its first training step, with warm caches; whole processes."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import project
from timing import Bar, Outcome, Sample, command, interleaved

HELP, WRONG, FLOOR = "`train.py --help`", "`train.py modle=14m`, a typo", "`import torch, lightning, transformers`"
EMPTY, FIRST, SCRIPT = (
    "an empty Hydra app, `--help`",
    "`train.py` to its first step",
    "Lightning, Hydra, Llama: a script",
)
HYDRA_APP = """
import hydra
@hydra.main(version_base=None, config_path=None)
def main(cfg): pass
main()
"""
BARE = """
import hydra, torch
from lightning.pytorch import LightningModule, Trainer
from transformers import LlamaConfig, LlamaForCausalLM
from clock import FirstStep
class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=128, intermediate_size=344,
            num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=64))
    def training_step(self, batch, index): return self.model(input_ids=batch, labels=batch).loss
    def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), fused=True)
@hydra.main(version_base=None, config_path=None)
def main(cfg):
    rows = torch.utils.data.DataLoader(torch.zeros(64, 64, dtype=torch.long), batch_size=4)
    Trainer(max_steps=2, accelerator="cpu", logger=False, callbacks=[FirstStep()]).fit(Module(), rows)
main()
"""


def measure(rounds: int = 5, *, short: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for script, text in (("hydra_app.py", HYDRA_APP), ("bare.py", BARE)):
            (folder / script).write_text(text, encoding="utf-8")
        tiny = ["model=tiny", "model.config.vocab_size=300", "data.batch_size=4", "trainer=cpu"]
        first = [*project.overrides(folder), *tiny, "resume=never", "+callbacks.first={_target_:clock.FirstStep}"]
        train, app = str(project.PROJECT / "train.py"), f"hydra.run.dir={folder}/hydra"
        commands: dict[str, list[str]] = {
            EMPTY: ["hydra_app.py", "--help"], HELP: [train, "--help"], FLOOR: ["-c", FLOOR.strip("`")],
            SCRIPT: ["bare.py", app], FIRST: [train, *first],
        }  # fmt: skip
        contestants: dict[str, Callable[[], Sample]] = {
            who: lambda words=words: command([sys.executable, *words], cwd=folder) for who, words in commands.items()
        }
        contestants[WRONG] = lambda: command([sys.executable, train, "modle=14m"], cwd=folder, fails=True)
        samples = interleaved(contestants, 3 if short else rounds)
    bars = [
        Bar("`train.py --help` over an empty Hydra app's", HELP, EMPTY, 2.0),
        Bar("`train.py` to its first step over a Lightning, Hydra and Llama script", FIRST, SCRIPT, 0.85),
        Bar("the first step over the imports alone", FIRST, FLOOR),
    ]
    return Outcome(samples, bars, unit="s")
