"""A new run with the weights of another: what fits is loaded and counted, what does not is listed."""

import logging

import pytest
import torch
from exactness import newest

from harness.checkpoint import read
from harness.errors import UserError

RUN = ("trainer.max_steps=1", "checkpoint.every_n_steps=1", "logger=none", "callbacks.samples=null")
# At a rate of 0 the weights stay what they were when training began.
STILL = (*RUN, "optimizer.lr=0")


@pytest.fixture
def source(train):
    return train(*RUN, "run.name=source", "trainer.max_steps=2")


def test_weights_alone_are_taken_and_other_data_are_no_trouble(train, source, caplog) -> None:
    with caplog.at_level(logging.INFO):
        folder = train(*STILL, "run.name=new", f"start_from={source.as_posix()}", "data.limit=20", "seed=1")
    taken, given = read.load_weights(newest(folder)), read.load_weights(newest(source))
    assert all(torch.equal(taken[name], tensor) for name, tensor in given.items())
    assert newest(folder).step == 1
    steps = read.load_trainer(newest(folder))["optimizer_states"][0]["state"][0]["step"]
    assert steps == 1
    assert f"Loaded {len(given)} of {len(given)} tensors from {newest(source).path.as_posix()}." in caplog.text


def test_a_checkpoint_folder_does_as_well(train, source) -> None:
    first = read.checkpoints(source / "checkpoints")[0]
    folder = train(*STILL, "run.name=new", f"start_from={first.path.as_posix()}")
    given = read.load_weights(first)
    assert all(torch.equal(tensor, given[name]) for name, tensor in read.load_weights(newest(folder)).items())


def test_what_does_not_fit_is_listed_unless_it_is_allowed(train, source, caplog) -> None:
    other = (*STILL, "model.config.num_hidden_layers=3", f"start_from={source.as_posix()}")
    with pytest.raises(UserError, match=r"(?s)missing     model\.layers\.2\..*start_from_allow=\[PATTERN\]"):
        train(*other, "run.name=refused")
    with caplog.at_level(logging.INFO):
        train(*other, "run.name=allowed", "start_from_allow=['model.layers.2.*']")
    assert "Begun anew, as start_from_allow says: model.layers.2." in caplog.text


def test_a_run_that_was_started_from_another_resumes_itself(train, source, caplog) -> None:
    overrides = (*RUN, "run.name=new", f"start_from={source.as_posix()}")
    train(*overrides)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        train(*overrides, "trainer.max_steps=2")
    assert "Going on from" in caplog.text and f"Loaded 20 of 20 tensors from {source.as_posix()}" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("start_from=nowhere",), r"There is no nowhere\. Name a run folder"),
        (("start_from=a", "resume_from=b"), "Both resume_from and start_from are set"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(train, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train(*RUN, "run.name=new", *overrides)


def test_a_run_from_nothing_keeps_its_name(compose) -> None:
    from omegaconf import OmegaConf

    from harness.config.identity import digest

    cfg = compose()
    older = OmegaConf.masked_copy(cfg, [key for key in cfg if not key.startswith("start_from")])
    assert digest(cfg) == digest(older)
    assert digest(compose("start_from=runs/x")) != digest(cfg)
