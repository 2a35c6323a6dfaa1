"""The one training loop. It knows no algorithm: see rlkit.agent for what it asks of one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlkit.agent import Agent, Metric
from rlkit.carry import mapped
from rlkit.envs.foreign import describe
from rlkit.envs.vector import Envs
from rlkit.errors import CheckpointError, EnvError, RlkitError, RlkitWarning, RunError
from rlkit.interval import Interval
from rlkit.packing import described
from rlkit.ranks import LostRankError
from rlkit.run.checkpoint import mark_best, save_checkpoint
from rlkit.run.folder import RunFolder, versions
from rlkit.run.metrics import EVALUATED, Metrics, Unrecorded
from rlkit.run.progress import Progress
from rlkit.run.signals import StopSignals
from rlkit.training.black_box import BlackBox, Refused
from rlkit.training.episodes import episodes_of
from rlkit.training.evaluation import Evaluation
from rlkit.training.exact_meter import Meter
from rlkit.training.iteration import Acting, iteration_of
from rlkit.training.parallel import RANKS, Council, Outcome, launch, run_of
from rlkit.training.resumption import resume_command
from rlkit.training.saving import SaveTimes
from rlkit.training.undisturbed import undisturbed

# Of a long run nobody waits for a hundredth. TensorBoard draws a thousand points of a curve.
LOGS_PER_RUN, LOGS_OF_LONG_RUNS, LONG_WAIT = 100, 1000, 10_000
EPISODES_PER_RUN = 1000


@dataclass(frozen=True)
class Plan:
    """How far to train, in environment steps, and what happens on the way.

    A step of N environments counts as N, the dead steps of NEXT_STEP autoreset included.
    """

    total: int
    eval_every: int
    save_every: Interval
    quantum: int  # of a rollout: speeds within one would leave its update out, or be of that alone

    @property
    def log_every(self) -> int:
        hundredth = max(1, self.total // LOGS_PER_RUN)
        every = max(min(hundredth, LONG_WAIT), self.total // LOGS_OF_LONG_RUNS)
        return -(-every // self.quantum) * self.quantum

    @property
    def tell_every(self) -> int:
        return max(1, self.total // EPISODES_PER_RUN)


class Trainer:
    """Trains `agent` on `envs` and leaves what happened in `folder`.

    Train and evaluate within `watched`. With a `council`, it is one of several ranks: see
    rlkit.training.parallel.
    """

    def __init__(
        self,
        agent: Agent,
        envs: Envs,
        plan: Plan,
        folder: RunFolder,
        evaluate: Callable[[int, Callable[[], None]], Evaluation] | None,
        start: int | None = None,
        exact: Meter | None = None,
        council: Council | None = None,
    ) -> None:
        self.agent, self.envs, self.plan, self.folder = agent, envs, plan, folder
        # Plays the agent as it is at a step, and calls what it is given again and again; None:
        # nothing to play on
        self.evaluate = evaluate
        self.exact = exact  # None: not wanted
        self.council = council  # None: this process trains alone
        self.signals = StopSignals()
        self._acting = Acting(agent, envs)
        self.episodes = episodes_of(envs.n, envs.device)
        # None: the host goes along with every step
        self._iteration = iteration_of(self._acting, self.episodes)
        self._leads = council is None or council.leads
        self.metrics = Metrics(folder, resume_step=start) if self._leads else Unrecorded()
        self.steps = start or 0  # of all ranks
        self._stride = envs.n * (1 if council is None else council.ranks.size)
        self.best: float | None = None
        self._update_metrics: dict[str, Metric] = {}
        self._saved: tuple[int, Path] | None = None  # the newest checkpoint's step and place
        self.saved_step = start  # the same step, also of the process that was resumed
        self._tell_at = self._next(plan.tell_every)
        self._save_times = SaveTimes(plan.save_every, self.steps)
        self._black_box = BlackBox(envs.obs_space, envs.n, self._acting.carry)
        self._evaluation_due = False  # a signal broke one off
        self._evidence = ""  # where the last steps before an error are
        self.home = folder if self._leads else run_of(folder)  # the run's folder
        self.resume_command = resume_command(self.home)
        if council is not None:
            self.resume_command = launch(self.resume_command, council.ranks)
        self._mark_time()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, a SIGINT or SIGTERM ends training and evaluating early, and a second SIGINT at
        once; an error says where the run stopped, and what is left of it and where."""
        with self.signals:
            try:
                yield
            except RlkitError as error:
                told = error if self.council is None else self.council.ranks.explained(error)
                if self._leads or isinstance(told, LostRankError):  # else rank 0 tells what is left
                    kind = type(told) if isinstance(told, (EnvError, LostRankError)) else RunError
                    told = kind(f"{told} ({self._left()})")
                raise told from (None if told is error else error)
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(self._left()) from stop
            except Exception:  # a defect, or memory that ran out: its type is for the caller to see
                warnings.warn(f"the run stopped: {self._left()}", RlkitWarning, stacklevel=2)
                raise

    def fit(self, progress: Progress | None = None) -> int:
        """Train to the plan's end, or to a signal; returns the exit status.

        Saves a checkpoint at the end either way. On an environment's or an update's error nothing
        is saved over the last good checkpoint, the last steps are written to the run's folder (see
        rlkit.training.black_box), and the error is passed on.
        """
        with undisturbed():
            log_at = self._next(self.plan.log_every)
            eval_at = self._next(self.plan.eval_every)
            self._mark_time()
            if self.council is not None and self.saved_step is None:
                self.save()
                self.council.begin(self.home.path)
            if self._evaluation_due:
                self.evaluate_now()
            while self.steps < self.plan.total and not self._stopping():
                try:
                    self._advance()
                except Exception as error:
                    self._open_black_box(error)
                    raise
                if self.steps >= log_at:
                    self._log(progress)
                    log_at = self._next(self.plan.log_every)
                if self.steps >= eval_at:
                    if self.steps < self.plan.total:
                        self.evaluate_now()
                    eval_at = self._next(self.plan.eval_every)
                if self._save_due():
                    self.save()
            self.save()
            if self.council is not None:
                self.council.agree(self.signals, False, now=True)
            return self.signals.exit_status if self._stopping() else 0

    def _stopping(self) -> bool:
        if self.council is not None:
            return self.council.stopping
        return self.signals.received is not None

    def _save_due(self) -> bool:
        due = self._save_times.due(self.steps)
        if self.council is None:
            return due
        by_clock = self.council.agree(self.signals, due)
        return by_clock if self._save_times.by_clock else due

    def _break_off(self) -> None:
        if self.council is not None:
            self.council.beat(self.signals)
        if self._stopping():
            raise _BrokenOffError

    def _advance(self) -> None:
        iteration = self._iteration
        if iteration is None or not iteration.is_due:
            self._step()
            return
        iteration.run(self.steps, self.plan.total)
        self.steps += iteration.quantum
        self._update_metrics = iteration.told()

    def _step(self) -> None:
        agent = self.agent
        agent.clock.progress = self.steps / self.plan.total
        step = self._acting.step()
        self.steps += self._stride
        self._black_box.add(step)
        self.episodes.add(step)
        if self.steps >= min(self._tell_at, self.plan.total):
            self._tell_episodes()
        for batch in agent.memory.batches():
            # An update finds for itself what is not finite, and says it better than NumPy.
            with np.errstate(over="ignore", invalid="ignore"):
                self._update_metrics = agent.update(batch)

    def _tell_episodes(self) -> None:
        """One record of those that ended since the last one: one each would cost a tenth of all."""
        self._tell_at = self._next(self.plan.tell_every)
        if ended := self.episodes.told():
            mean_return, mean_length = np.mean(ended, axis=0).tolist()
            self.metrics.episode(self.steps, mean_return, mean_length)

    def _next(self, every: int) -> int:
        """The next multiple of `every` after the steps done."""
        return (self.steps // every + 1) * every

    def _mark_time(self) -> None:
        self._timed_from = time.perf_counter(), self.steps

    def _log(self, progress: Progress | None) -> None:
        since, steps_then = self._timed_from
        fps = (self.steps - steps_then) / max(time.perf_counter() - since, 1e-9)
        self._mark_time()
        means = self.episodes.means()
        mean_return, mean_length = self.council.means(means) if self.council else means
        scalars: dict[str, float] = {"time/fps": fps}
        if self.envs.restarts:
            scalars["time/worker_restarts"] = self.envs.restarts
        if mean_return is not None and mean_length is not None:
            scalars["rollout/ep_rew_mean"] = mean_return
            scalars["rollout/ep_len_mean"] = mean_length
        scalars |= {f"train/{name}": float(x) for name, x in self._update_metrics.items()}
        if self.exact:
            scalars |= self.exact.at_log(self.steps)
            self._mark_time()  # not training time
        self.metrics.scalars(self.steps, scalars)
        if progress:
            progress.update(self.steps, mean_return, mean_length, fps)

    def evaluate_now(self) -> Evaluation | None:
        """Play the agent as it is; log the result, and keep the checkpoint if it is the best.

        None where there is nothing to play on, and where a signal broke the evaluation off.
        """
        if self.evaluate is None:
            if self.exact and (scalars := self.exact.at_evaluation(self.steps)):
                self.metrics.scalars(self.steps, scalars)
            return None
        if self.council is not None and not self.council.leads:
            self._await_evaluation(self.council)
            return None
        since = time.perf_counter()
        self._evaluation_due = True
        try:
            evaluation = self.evaluate(self.steps, self._break_off)
        except _BrokenOffError:
            self._announce(Outcome.BROKEN_OFF)
            return None
        except EnvError as error:
            raise EnvError(f"in the evaluation, {error}") from error
        self._evaluation_due = False
        if evaluation.capped:
            warnings.warn(
                f"{evaluation.capped} of {len(evaluation.returns)} evaluation episodes did not end "
                f"and were cut at {max(evaluation.lengths):,} steps; give episodes a limit: "
                "--env-option max_episode_steps=N",
                RlkitWarning,
                stacklevel=2,
            )
        scalars = {
            EVALUATED: evaluation.mean,
            "eval/mean_ep_length": sum(evaluation.lengths) / len(evaluation.lengths),
        }
        if self.exact:
            scalars |= self.exact.at_evaluation(self.steps)
        is_last = self.steps >= self.plan.total
        if not is_last:  # a run that goes on from the checkpoint has this measurement behind it
            self.metrics.scalars(self.steps, scalars)
        is_best = self.best is None or evaluation.mean >= self.best
        self._announce(Outcome.BEST if is_best else Outcome.KEPT)
        if is_best:
            self.best = evaluation.mean
            self.save(best=True)
        if is_last:  # which says that the run is complete
            self.metrics.scalars(self.steps, scalars)
        then, steps_then = self._timed_from
        self._timed_from = then + time.perf_counter() - since, steps_then  # not training time
        return evaluation

    def _announce(self, outcome: Outcome) -> None:
        if self.council is not None:
            self.council.announce(self.signals, outcome)

    def _await_evaluation(self, council: Council) -> None:
        outcome = council.awaited(self.signals)
        self._evaluation_due = outcome is Outcome.BROKEN_OFF
        if outcome is Outcome.BEST:
            self.save(best=True)

    def save(self, best: bool = False) -> None:
        """Save a checkpoint; a disk that doesn't take it costs a warning, not the training."""
        self._save_times.saved(self.steps)
        council, failed = self.council, False
        if council is not None and council.leads:
            council.assemble()  # the others' parts are there first
        try:
            if best or self._saved is None or self._saved[0] != self.steps:
                path = save_checkpoint(self.folder, self.steps, self.get_state(), about(self.agent))
                self._saved = self.steps, path
                self.saved_step = self.steps
            if best:
                mark_best(self._saved[1])
        except CheckpointError as error:
            failed = True
            warnings.warn(str(error), RlkitWarning, stacklevel=2)
        if council is not None and not council.leads:
            council.assemble(failed)

    def get_state(self) -> dict[str, Any]:
        ranks = {} if self.council is None else {RANKS: self.council.about()}
        return {
            **ranks,
            "agent": self.agent.get_state(),
            "envs": self.envs.get_state(),
            "episodes": self.episodes.get_state(),
            "carry": self._acting.carry,
            "update_metrics": {name: float(x) for name, x in self._update_metrics.items()},
            "steps": self.steps,
            "total": self.plan.total,
            "best": self.best,
            "evaluation_due": self._evaluation_due,
            "clock": {"progress": self.agent.clock.progress},
        }

    def set_state(self, state: dict[str, Any]) -> bool:
        """Go on from `state`; returns whether the episodes go on too, or start afresh."""
        self.agent.set_state(state["agent"])
        self.episodes.set_state(state["episodes"])
        self._update_metrics = {k: float(x) for k, x in state["update_metrics"].items()}
        if state["steps"] != self.steps:
            raise ValueError(f"the state is of step {state['steps']}, not {self.steps}")
        self.best = None if state["best"] is None else float(state["best"])
        self._evaluation_due = bool(state.get("evaluation_due", False))
        if state["envs"] is None:
            self.episodes.forget_running()
            self.agent.memory.restart()
            return False
        self._acting.obs = self.envs.set_state(state["envs"])
        device = self.agent.setting.device
        self._acting.carry = mapped(lambda x: x.to(device), state["carry"])
        return True

    def _open_black_box(self, error: Exception) -> None:
        """Write down what led to `error`, as far as the disk takes it."""
        if isinstance(error, LostRankError):  # no step's fault
            return
        refused, acting = None, self._acting
        if acting.sent is not None:
            refused = Refused(acting.obs, acting.sent, self.envs.returned)
        told = {
            "run": str(self.folder.path),
            "step": self.steps,
            "saved_step": self.saved_step,
            "go_on": self.resume_command if self.saved_step is not None else None,
            "agent": self.agent.name,
            "env": self.envs.id,
            "versions": versions(),
        }
        try:
            for step in self._iteration.steps() if self._iteration else ():
                self._black_box.add(step)
            path = self._black_box.write(self.folder.path, self.steps, error, refused, told)
            self._evidence = f"the last steps are in {path}"
        except Exception as failure:  # must not hide what it was to explain
            self._evidence = f"the last steps could not be written: {describe(failure)}"

    def _left(self) -> str:
        """Where the run is, what of it is saved, how to go on from there, and what went wrong."""
        saved = "nothing was saved yet"
        if self.saved_step is not None:
            saved = f"step {self.saved_step} is saved, go on with: {self.resume_command}"
        parts = [f"step {self.steps} of {self.home.path}", saved, self._evidence]
        return "; ".join(part for part in parts if part)


class _BrokenOffError(Exception):
    """A signal ended an evaluation."""


def about(agent: Agent) -> dict[str, str]:
    """What a checkpoint is a checkpoint of; loading one of another kind is refused."""
    setting = agent.setting
    obs_space, action_space = described(setting.obs_space), described(setting.action_space)
    return {"agent": agent.name, "observation_space": obs_space, "action_space": action_space}
