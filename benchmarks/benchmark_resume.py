"""What a restored cursor costs: from its position to the first batch, in ten million windows."""

import project  # noqa: F401
import torch
from timing import Bar, Outcome, Sample, interleaved, timed

from harness import ExactData

WINDOWS, POSITIONS = 10_000_000, (10, 1_000_000, 1_000_000_000)


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return WINDOWS

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor([index])}


class Data(ExactData):
    train_set = Rows()


def name(position: int) -> str:
    return f"first batch at position {position:,}"


def first_batch(position: int, times: int = 20) -> Sample:
    def work() -> None:
        for _ in range(times):
            data = Data(batch_size=8)
            data.load_state_dict({"windows": position, "batches": position // 8})
            next(iter(data.train_dataloader()))

    return timed(work).per(times)


def measure(rounds: int = 9, *, short: bool = False) -> Outcome:
    samples = interleaved({name(position): lambda p=position: first_batch(p) for position in POSITIONS}, rounds)
    early, *late = map(name, POSITIONS)
    bars = [Bar(f"the {position} over that at position 10", position, early, 1.1) for position in late]
    return Outcome(samples, bars)
