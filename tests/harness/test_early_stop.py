"""A callback that stops training ends the run: the same command says that it is complete."""

import contextlib
import logging

import pytest
from exactness import assert_same, newest

from harness import trainer as fit
from harness.run import folder as run_folder
from hooks import PowerCut

EARLY = "+callbacks.early={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:val/loss,stopping_threshold:99}"
RUN = (EARLY, "trainer.max_steps=6", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "logger=csv",
       "run.name=early")  # fmt: skip


def test_the_same_command_says_that_it_is_complete(train, caplog) -> None:
    folder = train(*RUN)
    assert run_folder.read(folder)["result"]["step"] == newest(folder).step == 2
    with caplog.at_level(logging.INFO):
        train(*RUN)
    assert "early is complete: 2 steps of 6, where a callback ended it." in caplog.text
    assert newest(folder).step == 2


def test_a_larger_limit_trains_on(train) -> None:
    train(*RUN)
    assert newest(train(*RUN, "trainer.max_steps=8")).step == 4  # where the callback stops it again


@pytest.mark.slow
def test_killed_before_its_result_it_does_not_train_on(train, monkeypatch) -> None:
    reference = train(*RUN, "run.name=reference")
    with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
        patch.setattr(fit, "final_loss", lambda *_: (_ for _ in ()).throw(PowerCut))
        train(*RUN)
    folder = train(*RUN)
    assert_same(folder, reference)
    assert run_folder.read(folder)["result"] == run_folder.read(reference)["result"]
