"""sweep=optuna: the values of each job are chosen from what came of those before it.

Optuna's part is to choose (a sampler) and to give up early (a pruner, asked at each validation). A trial is a run like
any job. Whatever is killed, the choices are those of an undisturbed search as long as one job runs at a time: the
sampler is seeded anew for each trial by its number, so that it depends on nothing but the trials before. With several
at a time it also depends on which of them had ended.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from hydra.utils import instantiate
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from harness.config.compose import Read, compose_all
from harness.config.jobs import Job, Multirun, one_more, write_name
from harness.config.space import Choice, Span, chosen, space
from harness.files import json_lines
from harness.launch.status import Status
from harness.telemetry import events

JOURNAL = "optuna.log"  # `optuna-dashboard optuna.log` shows it
DIGITS = 6  # of a number that is chosen: it is part of what is typed, and read by people


class Search:
    """The jobs of a search. The journal is the truth of what was chosen and what came of it."""

    def __init__(self, sweep: Multirun) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.total = sweep, int(sweep.sweep["n_trials"])
        self.distributions = {key: distribution(one) for key, one in sorted(space(sweep.words).items())}
        self.pruner = instantiate(sweep.sweep.get("pruner"), _convert_="all")
        self.storage = open_journal(sweep.folder / JOURNAL)
        # With other steps, values or samplers these trials are not comparable; their runs are found again by name.
        how = [sweep.asked, repr(self.distributions), {**sweep.sweep, "n_trials": None, "name": None}]
        self.name = hashlib.sha256(json.dumps(how, sort_keys=True, default=str).encode()).hexdigest()[:8]
        self.study = optuna.create_study(storage=self.storage, study_name=self.name, load_if_exists=True)
        self.numbers: dict[str, list[int]] = {}  # of the trials of a running job: small spaces are chosen from twice
        self.lengths: dict[str, int] = {}  # of each job that was composed, in steps; -1 where only epochs limit it
        self._read: Read = {}

    @property
    def done(self) -> int:
        return len([trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()])

    def jobs(self) -> Iterator[Job]:
        """Yield what was chosen and has not ended, then choose, each time that a job is asked for."""
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):
            yield from self._begin(trial.number, self._job(trial.params))
        while (number := len(self.study.get_trials(deepcopy=False))) < self.total:
            job = self._job(params := self._choose(number))
            # At once and whole: a trial that is cut off half chosen would be chosen differently the next time.
            self.study.add_trial(
                optuna.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=self.distributions,
                    user_attrs={"run": job.name},
                )
            )
            yield from self._begin(number, job)

    def called(self, job: Job) -> str:
        return f"{self.numbers[job.name][0] + 1} of {self.total}"

    def wanted(self, job: Job) -> bool:
        return self._given_up_at(job, self.numbers[job.name][0]) is None

    def ended(self, job: Job, status: Status) -> None:
        """Tell the study what came of a job that has ended, and say so in its status where it was given up."""
        for number in self.numbers.pop(job.name):
            self._tell(number, job, status)

    def rows(self) -> list[Status]:
        """Return a row for each run, in the order in which they were chosen."""
        found: dict[str, Status] = {}
        for trial in self.study.get_trials(deepcopy=False):
            name = trial.user_attrs["run"]
            status = Status.known(self.sweep.folder, name) or Status(
                name, {k: str(v) for k, v in trial.params.items()}, ""
            )
            if trial.state == TrialState.PRUNED:
                status.state, status.step, status.val_loss = "pruned", trial.last_step, trial.value
            found[name] = status
        return [*found.values()]

    def _begin(self, number: int, job: Job) -> Iterator[Job]:
        if job.name in self.numbers:
            self.numbers[job.name].append(number)
            return
        status = Status.of(self.sweep.folder, job)
        self.numbers[job.name] = [number]
        if status.state == "finished":
            self.ended(job, status)
        else:
            yield job

    def _choose(self, number: int) -> dict[str, Any]:
        """Return the values of a trial that is not begun yet: in a study in memory, for only whole trials are kept."""
        seed = hashlib.sha256(f"{self.sweep.sweep['seed']}-{number}".encode()).digest()
        sampler = instantiate(self.sweep.sweep["sampler"], seed=int.from_bytes(seed[:4], "big"), _convert_="all")
        study = optuna.create_study(sampler=sampler)
        study.add_trials(self.study.get_trials(deepcopy=False))
        params = study.ask(self.distributions).params
        return {key: rounded(value, self.distributions[key]) for key, value in params.items()}

    def _job(self, params: dict[str, Any]) -> Job:
        words = chosen(self.sweep.words, {key: str(value) for key, value in params.items()})
        [cfg] = compose_all([words], self._read)
        write_name(cfg)
        job = one_more(self.sweep, words, cfg)
        self.lengths[job.name] = int(cfg.trainer.max_steps)
        return job

    def _given_up_at(self, job: Job, number: int) -> int | None:
        """Return the step of the validation at which the pruner gives a trial up. The last one comes too late."""
        if self.pruner is None:
            return None
        trial = self.study.get_trials()[number]
        for step, loss in self._validations(job).items():
            trial.intermediate_values[step] = loss
            if step != self.lengths[job.name] and self.pruner.prune(self.study, trial):
                return step
        return None

    def _validations(self, job: Job) -> dict[int, float]:
        """Return the loss of each validation by step, as the event log has it: the job itself knows of no search."""
        lines = json_lines(events.log_path(self.sweep.folder / job.name), having=b'"validation"', valid=events.is_event)
        found = {event["step"]: event["data"].get("loss") for _, event in lines if event["event_type"] == "validation"}
        return {step: math.nan if loss is None else float(loss) for step, loss in sorted(found.items())}

    def _tell(self, number: int, job: Job, status: Status) -> None:
        given_up = self._given_up_at(job, number)
        if given_up is None and status.state != "finished":
            return  # stopped or failed: the same line tries it again
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        validations = self._validations(job)
        for step, loss in validations.items():
            if given_up is None or step <= given_up:
                self.storage.set_trial_intermediate_value(trial_id, step, loss)
        if given_up is not None:
            status.state, status.step, status.val_loss = "pruned", given_up, validations[given_up]
            status.reason = f"Given up at step {given_up}."
            status.write(self.sweep.folder)
            self.study.tell(number, state=TrialState.PRUNED)
        elif status.val_loss is None or not math.isfinite(status.val_loss):
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, status.val_loss)

    @property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)


def open_journal(path: Path) -> JournalStorage:
    """Open the journal of a search, which this process alone has: it holds the lock of the sweep's folder.

    A file that is only appended to, and not SQLite, which needs locks that many network disks do not have. A kill
    leaves at most half a last line, which is cut off (Optuna would append to it, and never read the file again), and
    Optuna's own lock, for which it would wait half a minute.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        events.cut_partial_line(path)
    return JournalStorage(JournalFileBackend(str(path)))


def distribution(one: Choice | Span) -> BaseDistribution:
    """Return what Optuna chooses from."""
    if isinstance(one, Choice):
        return CategoricalDistribution(one.values)
    if all(isinstance(number, int) for number in (one.low, one.high, one.step or 1)):
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def rounded(value: Any, among: BaseDistribution) -> Any:
    """Return a number with few digits: no run is another for the tenth one."""
    if not isinstance(value, float) or not isinstance(among, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), among.low), among.high)
