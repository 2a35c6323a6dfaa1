"""Faults 1 to 22: what an environment returns, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from causes import (
    FAULTY,
    SMALL,
    Fault,
    alive,
    rlkit_train,
    say,
    sb3_model,
    sb3_train,
    sb3_weights,
)
from faulty import Faulty

ASYNC = ("--vectorization", "async")


def on_both(number: int, name: str, symptom: str, agent: str = "a2c") -> Fault:
    """The same symptom, the same agent."""
    return Fault(
        number,
        f"{name} ({agent.upper()})",
        partial(rlkit_train, symptom, agent=agent),
        partial(sb3_train, symptom, agent=agent),
    )


def sb3_workers(symptom: str, steps: int = 400) -> None:
    """Train with a process for each of two environments."""
    from stable_baselines3.common.vec_env import SubprocVecEnv

    model = sb3_model("a2c", SubprocVecEnv([partial(Faulty, symptom)] * 2))
    model.learn(steps)
    say("trains on to the end")


def sb3_evaluates_the_endless() -> None:
    from stable_baselines3.common.evaluation import evaluate_policy

    model = sb3_model("a2c", Faulty("endless"))
    evaluate_policy(model, model.get_env(), n_eval_episodes=2)


def sb3_twin_is_equal(symptom: str) -> None:
    """Whether the symptom changes what is learned."""
    one, other = (sb3_train(which) for which in ("", symptom))
    pairs = zip(one.policy.parameters(), other.policy.parameters(), strict=True)
    say(f"weights equal to a healthy run's: {all(bool((p == q).all()) for p, q in pairs)}")


def rlkit_twin_is_equal(symptom: str) -> None:
    import torch

    import rlkit as library

    rlkit_train("")
    rlkit_train(symptom)
    one, other = (
        library.load(f"runs/a2c-Faulty-{run}", env=FAULTY).agent.state_dict() for run in (0, 1)
    )
    say(f"weights equal to a healthy run's: {all(torch.equal(one[k], other[k]) for k in one)}")


def sb3_box_nested() -> None:
    model = sb3_model("a2c", Faulty("nested"), policy="MultiInputPolicy")
    model.learn(100)
    say(sb3_weights(model))


def orphans(command: list[str]) -> None:
    """Kill a training with worker processes; say which of those are left five seconds later."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 40
    while len(list(Path().glob("worker-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = [int(path.name.removeprefix("worker-")) for path in Path().glob("worker-*")]
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)
    left = alive(workers)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    say(f"{len(left)} of {len(workers)} workers left after the parent was killed")


def rlkit_orphans() -> None:
    told = ["train", "a2c", FAULTY, *SMALL["a2c"], *ASYNC, "--steps", "100000"]
    orphans([sys.executable, "-m", "rlkit", *told, "--env-option", "symptom=slow"])


def sb3_orphans() -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    orphans([sys.executable, "-c", "import environment as e; e.sb3_workers('slow', 100_000)"])


FAULTS = [
    *(on_both(1, "NaN in an observation", "nan", agent) for agent in ("a2c", "ppo", "dqn")),
    *(on_both(2, "infinity in an observation", "inf", agent) for agent in ("a2c", "dqn")),
    *(on_both(3, "NaN reward", "nan-reward", agent) for agent in ("a2c", "dqn")),
    *(on_both(4, "infinite reward", "inf-reward", agent) for agent in ("a2c", "dqn")),
    *(on_both(5, "rewards of 1e38", "huge-reward", agent) for agent in ("a2c", "dqn")),
    on_both(6, "observation outside its Box", "outside"),
    Fault(6, "the same, --strict", partial(rlkit_train, "outside", "--strict")),
    on_both(7, "observation of shape (5,) where (4,) is declared", "five"),
    on_both(8, "observation of shape (1,) where (4,) is declared", "one"),
    on_both(9, "observation as a list", "list"),
    on_both(10, "text as an observation", "string"),
    on_both(11, "None as a reward", "no-reward"),
    on_both(12, "step returns four values", "four-values"),
    on_both(12, "reset returns no info", "old-reset"),
    Fault(
        13,
        "an exception in a worker process",
        partial(rlkit_train, "raise", *ASYNC),
        partial(sb3_workers, "raise"),
    ),
    Fault(
        14,
        "a worker process is killed",
        partial(rlkit_train, "die", *ASYNC),
        partial(sb3_workers, "die"),
    ),
    Fault(
        15,
        "a worker process hangs",
        partial(rlkit_train, "hang", *ASYNC, "--env-timeout", 3),
        partial(sb3_workers, "hang"),
    ),
    Fault(16, "the parent is killed", rlkit_orphans, sb3_orphans),
    Fault(
        17,
        "episodes never end, in an evaluation",
        partial(rlkit_train, "endless", "--eval-every", 10**6),
        sb3_evaluates_the_endless,
    ),
    on_both(18, "terminated and truncated at once", "both"),
    Fault(
        19,
        "the environment reuses its observation's memory",
        partial(rlkit_twin_is_equal, "reuse"),
        partial(sb3_twin_is_equal, "reuse"),
    ),
    *(on_both(20, "actions that begin at 5", "action-start", agent) for agent in ("a2c", "dqn")),
    on_both(21, "observations that begin at 3", "obs-start"),
    Fault(22, "nested Dict and Tuple", partial(rlkit_train, "nested"), sb3_box_nested),
]
