"""The one training loop. It knows no algorithm: see rlkit.agent for what it asks of one."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlkit.agent import Agent, Metric
from rlkit.carry import mapped, renewed
from rlkit.envs.vector import Envs
from rlkit.errors import CheckpointError, EnvError, RlkitWarning, RunError
from rlkit.packing import described
from rlkit.run.checkpoint import mark_best, save_checkpoint
from rlkit.run.folder import RunFolder
from rlkit.run.metrics import Metrics
from rlkit.run.progress import Progress
from rlkit.run.signals import StopSignals
from rlkit.training.episodes import Episodes
from rlkit.training.evaluation import Evaluation

LOGS_PER_RUN = 100


@dataclass(frozen=True)
class Plan:
    """How far to train, in environment steps, and what happens on the way.

    A step of N environments counts as N, the dead steps of NEXT_STEP autoreset included.
    """

    total: int
    eval_every: int
    checkpoint_every: int

    @property
    def log_every(self) -> int:
        return max(1, self.total // LOGS_PER_RUN)


class Trainer:
    """Trains `agent` on `envs` and leaves what happened in `folder`."""

    def __init__(
        self,
        agent: Agent,
        envs: Envs,
        plan: Plan,
        folder: RunFolder,
        evaluate: Callable[[int], Evaluation] | None,
        start: int = 0,
    ) -> None:
        self.agent, self.envs, self.plan, self.folder = agent, envs, plan, folder
        self.evaluate = evaluate  # plays the agent as it is at a step; None: nothing to play on
        self._obs = envs.reset()
        self.episodes = Episodes(envs.n)
        self.metrics = Metrics(folder, resume_step=start or None)
        self.steps = start
        self.best: float | None = None
        self._carry = agent.initial_carry(envs.n)
        self._update_metrics: dict[str, Metric] = {}
        self._saved: tuple[int, Path] | None = None  # the newest checkpoint's step and place

    def fit(self, progress: Progress | None = None) -> int:
        """Train to the plan's end, or to a SIGINT or SIGTERM; returns the exit status.

        Saves a checkpoint at the end either way. On an environment's or an update's error nothing
        is saved over the last good checkpoint, and the error is passed on with the step.
        """
        with StopSignals() as signals, _quiet_collector(), self._located_errors():
            log_at = self._next(self.plan.log_every)
            eval_at = self._next(self.plan.eval_every)
            save_at = self._next(self.plan.checkpoint_every)
            self._mark_time()
            while self.steps < self.plan.total and signals.received is None:
                self._step()
                if self.steps >= log_at:
                    self._log(progress)
                    log_at = self._next(self.plan.log_every)
                if self.steps >= eval_at:
                    if self.steps < self.plan.total:
                        self.evaluate_now()
                    eval_at = self._next(self.plan.eval_every)
                if self.steps >= save_at:
                    self.save()
                    save_at = self._next(self.plan.checkpoint_every)
            self.save()
            return signals.exit_status

    def _step(self) -> None:
        agent = self.agent
        agent.clock.progress = self.steps / self.plan.total
        action, carry = agent.act(self._obs, self._carry, mask=self.envs.mask)
        step = self.envs.step(action)
        step.carry = self._carry
        agent.memory.add(step)
        if carry is not None:
            self._carry = renewed(carry, torch.from_numpy(step.begins))
        self._obs = step.next_obs
        self.steps += self.envs.n
        if ended := self.episodes.add(step):
            # One record for those that ended together: hundreds of environments would write more
            # than they learn.
            mean_return, mean_length = np.mean(ended, axis=0).tolist()
            self.metrics.episode(self.steps, mean_return, mean_length)
        for batch in agent.memory.batches():
            # An update finds for itself what is not finite, and says it better than NumPy.
            with np.errstate(over="ignore", invalid="ignore"):
                self._update_metrics = agent.update(batch)

    def _next(self, every: int) -> int:
        """The next multiple of `every` after the steps done."""
        return (self.steps // every + 1) * every

    def _mark_time(self) -> None:
        self._timed_from = time.perf_counter(), self.steps

    def _log(self, progress: Progress | None) -> None:
        since, steps_then = self._timed_from
        fps = (self.steps - steps_then) / max(time.perf_counter() - since, 1e-9)
        self._mark_time()
        mean_return, mean_length = self.episodes.means()
        scalars: dict[str, float] = {"time/fps": fps}
        if mean_return is not None and mean_length is not None:
            scalars["rollout/ep_rew_mean"] = mean_return
            scalars["rollout/ep_len_mean"] = mean_length
        scalars |= {f"train/{name}": float(x) for name, x in self._update_metrics.items()}
        self.metrics.scalars(self.steps, scalars)
        if progress:
            progress.update(self.steps, mean_return, mean_length, fps)

    def evaluate_now(self) -> Evaluation | None:
        """Play the agent as it is; log the result, and keep the checkpoint if it is the best."""
        if self.evaluate is None:
            return None
        since = time.perf_counter()
        evaluation = self.evaluate(self.steps)
        if evaluation.capped:
            warnings.warn(
                f"{evaluation.capped} of {len(evaluation.returns)} evaluation episodes did not end "
                f"and were cut at {max(evaluation.lengths):,} steps; give episodes a limit: "
                "--env-option max_episode_steps=N",
                RlkitWarning,
                stacklevel=2,
            )
        scalars = {
            "eval/mean_reward": evaluation.mean,
            "eval/mean_ep_length": sum(evaluation.lengths) / len(evaluation.lengths),
        }
        self.metrics.scalars(self.steps, scalars)
        if self.best is None or evaluation.mean >= self.best:
            self.best = evaluation.mean
            self.save(best=True)
        then, steps_then = self._timed_from
        self._timed_from = then + time.perf_counter() - since, steps_then  # not training time
        return evaluation

    def save(self, best: bool = False) -> None:
        """Save a checkpoint; a disk that doesn't take it costs a warning, not the training."""
        try:
            if best or self._saved is None or self._saved[0] != self.steps:
                path = save_checkpoint(self.folder, self.steps, self.get_state(), about(self.agent))
                self._saved = self.steps, path
            if best:
                mark_best(self._saved[1])
        except CheckpointError as error:
            warnings.warn(str(error), RlkitWarning, stacklevel=2)

    def get_state(self) -> dict[str, Any]:
        return {
            "agent": self.agent.get_state(),
            "envs": self.envs.get_state(),
            "episodes": self.episodes.get_state(),
            "carry": self._carry,
            "update_metrics": {name: float(x) for name, x in self._update_metrics.items()},
            "steps": self.steps,
            "total": self.plan.total,
            "best": self.best,
        }

    def set_state(self, state: dict[str, Any]) -> bool:
        """Go on from `state`; returns whether the episodes go on too, or start afresh."""
        self.agent.set_state(state["agent"])
        self.episodes.set_state(state["episodes"])
        self._update_metrics = state["update_metrics"]
        self.steps, self.best = state["steps"], state["best"]
        if state["envs"] is None:
            self.episodes.forget_running()
            self.agent.memory.restart()
            return False
        self._obs = self.envs.set_state(state["envs"])
        device = self.agent.setting.device
        self._carry = mapped(lambda x: x.to(device), state["carry"])
        return True

    @contextmanager
    def _located_errors(self) -> Iterator[None]:
        """Say where a run stopped and what is left of it."""
        try:
            yield
        except RunError as error:
            kind = EnvError if isinstance(error, EnvError) else RunError
            kept = f"step {self._saved[0]} is saved" if self._saved else "nothing was saved yet"
            raise kind(f"{error} (step {self.steps} of {self.folder.path}; {kept})") from error


def about(agent: Agent) -> dict[str, str]:
    """What a checkpoint is a checkpoint of; loading one of another kind is refused."""
    setting = agent.setting
    obs_space, action_space = described(setting.obs_space), described(setting.action_space)
    return {"agent": agent.name, "observation_space": obs_space, "action_space": action_space}


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep Python's garbage collector from walking all of torch's objects again and again."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
