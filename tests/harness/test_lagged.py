import torch

from harness.step.delayed import DelayedReadback


def test_values_come_back_exactly_lag_steps_later():
    queue = DelayedReadback(lag=2)
    seen = []
    for step in range(1, 6):
        queue.push(step, torch.tensor([float(step)]))
        seen.append([record.step for record in queue.ready(step)])
    assert seen == [[], [], [1], [2], [3]]


def test_what_was_pending_at_a_checkpoint_is_reported_after_the_resume():
    queue, resumed = DelayedReadback(lag=2), DelayedReadback(lag=2)
    queue.push(7, torch.tensor([1.5, float("nan")]))
    resumed.load_state_dict(queue.state_dict())
    resumed.push(8, torch.tensor([2.5, 0.0]))
    resumed.push(9, torch.tensor([3.5, 0.0]))
    (record,) = resumed.ready(9)
    assert record.step == 7 and record.values[0] == 1.5 and record.values[1] != record.values[1]
