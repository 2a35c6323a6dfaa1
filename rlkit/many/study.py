"""An Optuna study that several processes and machines share, trial by trial; imports Optuna.

A trial whose process has ended, or was asked to stop, is *handed back*: it is closed as void, and a
new one with the same values waits for whoever comes next, who goes on with the runs of the first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from rlkit.errors import RlkitError, RunError, UsageError
from rlkit.many.owner import is_gone, owner
from rlkit.many.plans import same_plan
from rlkit.many.search import Choice, Dimension, label
from rlkit.recipe import Option
from rlkit.registry import unknown

PLAN, OWNER, BEAT, VOID, RUNS_OF = "plan", "owner", "beat", "void", "runs_of"
BEAT_SECONDS = 60.0  # between two signs of life of a running trial
STALE_SECONDS = 600.0  # without one: the machine is gone
ENOUGH_TO_COMPARE = 10  # completed trials, for the importance of fields
FAILURES = (OptunaError, SQLAlchemyError, OSError)  # of a storage
# What Optuna raises on a file that is not one of its own.
MALFORMED = (AssertionError, AttributeError, LookupError, TypeError, ValueError)
PRUNERS: Mapping[str, type[BasePruner]] = {
    "median": MedianPruner,
    "halving": SuccessiveHalvingPruner,
    "none": NopPruner,
}


class SeededByTrial(BaseSampler):
    """Multivariate TPE (Bergstra et al. 2011; Falkner et al. 2018), seeded for each trial anew.

    So processes that share a study never draw the same values, and one process draws the same
    again.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        self._tpe = TPESampler(multivariate=True, constant_liar=True, seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


def distribution(option: Option, dimension: Dimension) -> BaseDistribution:
    """A dimension of a search in Optuna's words; `value_of` is the way back."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution([label(value) for value in dimension.values])
    if option.type == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class SharedStudy:
    """The study `name` in `storage`: a URL, or a file for a journal that is made where needed.

    `plan`: what the study is about, as JSON values; another plan is refused. `create` it where
    there is none.

    Raises UsageError where the storage can't be opened or read.
    """

    def __init__(
        self, storage: str, name: str, plan: Mapping[str, Any], seed: int, pruner: str, create: bool
    ) -> None:
        if pruner not in PRUNERS:
            raise unknown("pruner", pruner, PRUNERS)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._place = _shown(storage)
        with self._readable():
            self._storage = _open(storage, create)
            known = {study.study_name for study in self._storage.get_all_studies()}
            if name not in known and not create:
                raise unknown("study", name, known)
            self.study: Study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                sampler=SeededByTrial(seed),
                pruner=PRUNERS[pruner](),
                direction="maximize",
                load_if_exists=True,
            )
            found = self.study.user_attrs.get(PLAN)
            if found is None:
                self.study.set_user_attr(PLAN, dict(plan))
        if found is not None:
            same_plan(f"study {name} in {self._place}", found, plan, "name with --study")

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Within, what goes wrong with the storage is an error of one line."""
        try:
            yield
        except RlkitError:
            raise
        except ImportError as error:
            raise UsageError(
                f"storage (--storage) is {self._place}, whose driver is missing: {error}"
            ) from None
        except (*FAILURES, *MALFORMED) as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UsageError(
                f"storage (--storage) {self._place} can't be used: {said}; is it there, whole, "
                "and Optuna's?"
            ) from None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within, a storage that fails is a RunError: the study goes on once it is back."""
        try:
            yield
        except FAILURES as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise RunError(
                f"storage (--storage) {self._place} failed: {said}; the same command goes on"
            ) from error

    def trials(self) -> Sequence[FrozenTrial]:
        """All trials that count: those that were handed back count where they go on."""
        found = self.study.get_trials(deepcopy=False)
        return [trial for trial in found if not _is_void(trial)]

    def next(self, count: int, space: Mapping[str, BaseDistribution]) -> Trial | None:
        """The next trial of `count` in all: one that waits, or a new one; None where all are made.

        Several processes may ask at once: of those that are too many, the later ones are void.
        """
        waiting = any(trial.state == TrialState.WAITING for trial in self.trials())
        if len(self.trials()) >= count and not waiting:
            return None
        trial = self.study.ask(dict(space))
        if sum(other.number < trial.number for other in self.trials()) >= count:
            self._void(trial.number)
            return None
        trial.set_user_attr(OWNER, owner())
        trial.set_user_attr(BEAT, time.time())
        return trial

    def beat(self, trial: Trial) -> None:
        """Say that a trial is being worked on."""
        with suppress(UpdateFinishedTrialError):  # another process took it for dead
            trial.set_user_attr(BEAT, time.time())

    def prunes(self, trial: Trial, step: int, value: float) -> bool:
        """Report a point of a trial's learning curve; whether the trial is to be stopped for it."""
        try:
            trial.report(value, step)
            return trial.should_prune()
        except UpdateFinishedTrialError:  # another process took it for dead
            return True

    def finish(
        self, trial: Trial, state: TrialState, value: float | None, told: Mapping[str, Any]
    ) -> None:
        """Close a trial, with what is told of it as user attributes."""
        with suppress(UpdateFinishedTrialError):  # another process took it for dead
            for name, said in told.items():
                trial.set_user_attr(name, said)
            values = value if state == TrialState.COMPLETE else None
            self.study.tell(trial, values, state, skip_if_finished=True)

    def hand_back(self, trial: FrozenTrial | Trial) -> None:
        """Have a trial gone on with by whoever comes next."""
        params, attributes = dict(trial.params), {RUNS_OF: runs_of(trial)}
        if self._void(trial.number):
            self.study.enqueue_trial(params, attributes)

    def hand_back_stale(self) -> int:
        """Hand back the trials whose process has ended; how many."""
        stale = [trial for trial in self.trials() if _is_stale(trial)]
        for trial in stale:
            self.hand_back(trial)
        return len(stale)

    def importances(self) -> dict[str, float]:
        """How much each field matters (PED-ANOVA, Watanabe et al. 2023); {} for too few trials."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if len(done) < ENOUGH_TO_COMPARE or len({trial.value for trial in done}) < 2:
            return {}
        found = get_param_importances(self.study, evaluator=PedAnovaImportanceEvaluator())
        return {name: float(share) for name, share in found.items()}

    def _void(self, number: int) -> bool:
        """Close a trial that doesn't count; whether it was this call that closed it."""
        storage = self._storage
        study = storage.get_study_id_from_name(self.study.study_name)
        trial = storage.get_trial_id_from_study_id_trial_number(study, number)
        try:
            storage.set_trial_user_attr(trial, VOID, True)
            storage.set_trial_state_values(trial, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        return True


def _open(storage: str, create: bool) -> BaseStorage:
    if "://" in storage:
        return RDBStorage(storage)
    path = Path(storage)
    if not create and not path.exists():
        raise UsageError(f"there is no study in {path} yet; begin one with --trials N")
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the default lock, a link: left over by a kill, one with a relative path is never released
    return JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


def _shown(storage: str) -> str:
    """The storage without its password."""
    if "://" not in storage:
        return storage
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return storage.partition("://")[0] + "://..."


def _is_stale(trial: FrozenTrial) -> bool:
    """Whether nobody works on a running trial any more: see `SharedStudy.next` for what it says."""
    if trial.state != TrialState.RUNNING:
        return False
    started = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    silent = time.time() - trial.user_attrs.get(BEAT, started)
    return is_gone(trial.user_attrs.get(OWNER)) or silent > STALE_SECONDS


def _is_void(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and VOID in trial.user_attrs


def runs_of(trial: FrozenTrial | Trial) -> int:
    """The number that names a trial's runs: that of the trial that began them."""
    return int(trial.user_attrs.get(RUNS_OF, trial.number))
