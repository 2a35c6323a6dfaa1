"""Faults 23 to 33, 40 to 43 and 48: what the libraries are told."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from causes import FAULTY, SMALL, Fault, rlkit, rlkit_train, say, sb3_model, sb3_train
from faulty import Faulty


def told(
    number: int, name: str, options: list[tuple[Any, ...]], sb3: list[dict[str, Any]]
) -> Fault:
    """Settings of DQN, or of PPO where DQN has no such setting, one after another."""
    return Fault(number, name, partial(rlkit_told, options), partial(sb3_told, sb3))


def rlkit_told(all_options: list[tuple[Any, ...]]) -> None:
    said = []
    for agent, option, value in all_options:
        command = [sys.executable, "-m", "rlkit", "train", agent, FAULTY, *SMALL[agent]]
        done = subprocess.run(
            [*command, "--steps", "400", option, str(value)], capture_output=True, text=True
        )
        last = (done.stderr.strip().splitlines() or ["accepted"])[-1]
        said.append(f"exit {done.returncode}: {last}")
    say("; ".join(said))


def sb3_told(all_settings: list[dict[str, Any]]) -> None:
    said = []
    for settings in all_settings:
        agent, steps = settings.pop("agent"), settings.pop("steps", 400)
        name = ", ".join(f"{key} {value}" for key, value in settings.items()) or f"steps {steps}"
        try:
            model = sb3_model(agent, Faulty(), **settings)
            model.learn(steps)
            said.append(f"{name} accepted, {model.num_timesteps} steps done")
        except Exception as error:
            said.append(f"{name}: {describe(error)}")
    say("; ".join(said))


def describe(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"


def sb3_env(name: str) -> None:
    sb3_model("a2c", name)


def sb3_cuda() -> None:
    import stable_baselines3

    model = stable_baselines3.A2C("MlpPolicy", Faulty(), device="cuda")
    model.learn(100)
    say(f"trains on {model.device}")


def sb3_vector_env() -> None:
    import gymnasium

    sb3_model("a2c", gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"))


def rlkit_vector_env() -> None:
    import gymnasium

    import rlkit as library

    venv = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    say(f"trained for {library.train('a2c', venv, {'steps': 400}).steps} steps")


def sb3_box_actions() -> None:
    sb3_model("dqn", Faulty("box-action"))


def sb3_buffer() -> None:
    model = sb3_model("dqn", Faulty("wide"), buffer_size=10**6, policy="MlpPolicy")
    model.learn(100)


def sb3_acts(seen: Callable[[], Any]) -> None:
    model = sb3_model("a2c", Faulty())
    say(f"acts: {model.predict(seen())[0]}")


def rlkit_acts(seen: Callable[[], Any]) -> None:
    import rlkit as library

    rlkit_train("")
    say(f"acts: {library.load('runs/a2c-Faulty-0', env=FAULTY).act(seen())}")


def not_a_number() -> Any:
    return np.full(4, np.nan, np.float32)


def three() -> Any:
    return np.zeros(3, np.float32)


def rlkit_code_in_a_value() -> None:
    code = "__import__('pathlib').Path('executed').touch()"
    rlkit_train(code)
    say(f"code executed: {Path('executed').exists()}")


def rlkit_escape() -> None:
    from rlkit.run.folder import RunFolder

    RunFolder.create(Path("runs"), "../../x", {}, None)


def sb3_escape() -> None:
    home = Path("runs/inner")
    home.mkdir(parents=True)
    model = sb3_model("a2c", Faulty(), tensorboard_log=str(home))
    model.learn(100, tb_log_name="../../escaped")
    found = sorted(str(path) for path in Path().glob("escaped*"))
    say(f"wrote outside its folder: {found}")


def rlkit_unwritable() -> None:
    Path("runs").write_text("a file")
    rlkit_train("", steps=100_000)


def sb3_unwritable() -> None:
    Path("runs").write_text("a file")
    model = sb3_model("a2c", Faulty(), tensorboard_log="runs")
    model.learn(1000)


def rlkit_together() -> None:
    command = [sys.executable, "-m", "rlkit", "train", "a2c", FAULTY, *SMALL["a2c"]]
    started = [
        subprocess.Popen([*command, "--steps", "400"], stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    for process in started:
        process.wait()
    say(f"folders: {sorted(path.name for path in Path('runs').iterdir())}")


def sb3_together() -> None:
    from stable_baselines3.common.utils import get_latest_run_id

    names: list[str] = []
    barrier = threading.Barrier(2)

    def take() -> None:  # as `learn` does with a tensorboard_log
        barrier.wait()
        names.append(f"a2c_{get_latest_run_id('runs', 'a2c') + 1}")

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say(f"folders: {sorted(names)}")


BAD = [
    *(("dqn", "--gamma", value) for value in (1.5, -1)),
    *(("ppo", "--gae-lambda", value) for value in (7,)),
    *(("dqn", option, value) for option, value in (("--max-grad-norm", -1), ("--exploration", 3))),
    *(("dqn", "--target-rate", value) for value in (5,)),
    *(("dqn", option, 0) for option in ("--buffer-size", "--batch-size", "--target-interval")),
]
SB3_BAD: list[dict[str, Any]] = [
    *({"agent": "dqn", "gamma": value} for value in (1.5, -1)),
    {"agent": "ppo", "gae_lambda": 7},
    {"agent": "dqn", "max_grad_norm": -1},
    {"agent": "dqn", "exploration_initial_eps": 3},
    {"agent": "dqn", "tau": 5},
    *({"agent": "dqn", name: 0} for name in ("buffer_size", "batch_size")),
    {"agent": "dqn", "target_update_interval": 0},
]

FAULTS = [
    Fault(
        23,
        "DQN with Box actions",
        partial(rlkit_train, "box-action", agent="dqn"),
        sb3_box_actions,
    ),
    Fault(24, "Box of shape (0,)", partial(rlkit_train, "empty"), partial(sb3_train, "empty")),
    Fault(24, "Text", partial(rlkit_train, "text"), partial(sb3_train, "text")),
    Fault(25, "Discrete(10⁹)", partial(rlkit_train, "huge"), partial(sb3_train, "huge")),
    Fault(
        26,
        "a replay buffer larger than memory",
        partial(rlkit_train, "wide", "--buffer-size", 10**6, agent="dqn"),
        sb3_buffer,
    ),
    told(27, "numbers out of range", BAD, SB3_BAD),
    told(28, "n_steps 0", [("a2c", "--n-steps", 0)], [{"agent": "a2c", "n_steps": 0}]),
    told(
        29,
        "steps −5, 1.5, 7",
        [("a2c", "--steps", value) for value in (-5, 1.5, 7)],
        [{"agent": "a2c", "steps": value} for value in (-5, 1.5, 7)],
    ),
    told(
        30,
        "learning rate −1, NaN",
        [("a2c", "--learning-rate", -1), ("a2c", "--learning-rate", "nan"), ("a2c", "--seed", -1)],
        [{"agent": "a2c", "learning_rate": value} for value in (-1.0, float("nan"))],
    ),
    Fault(
        31,
        "a misspelt environment",
        partial(rlkit, "train", "a2c", "CartPoole"),
        partial(sb3_env, "CartPoole-v1"),
    ),
    Fault(31, "a misspelt agent", partial(rlkit, "train", "a2x", "CartPole")),
    Fault(32, "--device cuda without CUDA", partial(rlkit_train, "", "--device", "cuda"), sb3_cuda),
    Fault(33, "a Gymnasium VectorEnv", rlkit_vector_env, sb3_vector_env),
    Fault(40, "code in a value", rlkit_code_in_a_value),
    Fault(41, "a run's name that leads elsewhere", rlkit_escape, sb3_escape),
    Fault(42, "a run folder that can't be written", rlkit_unwritable, sb3_unwritable),
    Fault(43, "two runs at the same moment", rlkit_together, sb3_together),
    Fault(48, "act on NaN", partial(rlkit_acts, not_a_number), partial(sb3_acts, not_a_number)),
    Fault(48, "act on three numbers", partial(rlkit_acts, three), partial(sb3_acts, three)),
]
