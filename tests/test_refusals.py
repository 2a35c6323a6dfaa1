"""What the command line refuses before anything starts, and code that it never executes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import AGENTS, EVERY, PATIENT, SMALL

import rlkit
from rlkit.errors import UsageError
from rlkit.recipe import options, read_options
from rlkit.registry import AGENTS as REGISTRY
from rlkit.training.options import RunOptions

SCHEDULE = "a number or START:END[:cosine][@SHARE OF THE RUN]"
SAVE_EVERY = "a whole number of steps >= 0, or a time > 0 such as 30s, 10min or 2h"

BOTH = [  # flag, what is given, what is allowed
    ("--gamma", "1.5", "a finite number >= 0 and <= 1"),
    ("--gamma", "-1", "a finite number >= 0 and <= 1"),
    ("--gamma", "nan", "a finite number >= 0 and <= 1"),
    ("--max-grad-norm", "-1", "a finite number > 0"),
    ("--max-grad-norm", "inf", "a finite number > 0"),
    ("--steps", "-5", "a whole number >= 1"),
    ("--steps", "0", "a whole number >= 1"),
    ("--steps", "1.5", "a whole number >= 1"),
    ("--steps", "many", "a whole number >= 1"),
    ("--envs", "0", "a whole number >= 1 and <= 65536"),
    ("--learning-rate", "-1", f"{SCHEDULE} > 0"),
    ("--learning-rate", "nan", f"{SCHEDULE} > 0"),
    ("--learning-rate", "fast", f"{SCHEDULE} > 0"),
    ("--hidden", "64,x", "whole numbers separated by commas, each >= 1 and <= 16384"),
    ("--hidden", "64,0", "whole numbers separated by commas, each >= 1 and <= 16384"),
    ("--hidden", "", "whole numbers separated by commas, each >= 1 and <= 16384"),
    ("--seed", "-1", "a whole number >= 0"),
    ("--seed", "1.5", "a whole number >= 0"),
    ("--threads", "0", "a whole number >= 1 and <= 1024"),
    ("--eval-episodes", "0", "a whole number >= 1"),
    ("--save-every", "-1", SAVE_EVERY),
    ("--save-every", "1.5", SAVE_EVERY),
    ("--save-every", "0min", SAVE_EVERY),
    ("--save-every", "10 minutes", SAVE_EVERY),
]
OWN = {
    "a2c": [
        ("--gae-lambda", "7", "a finite number >= 0 and <= 1"),
        ("--n-steps", "0", "a whole number >= 1"),
        ("--entropy-cost", "-0.1", f"{SCHEDULE} >= 0"),
        ("--optimizer", "lion", "sgd or momentum or rmsprop or adam or adamw"),
    ],
    "ppo": [
        ("--gae-lambda", "7", "a finite number >= 0 and <= 1"),
        ("--epochs", "0", "a whole number >= 1"),
        ("--minibatch-size", "0", "a whole number >= 1"),
        ("--clip", "0", f"{SCHEDULE} > 0"),
        ("--value-clip", "-0.1", "a finite number >= 0"),
        ("--target-kl", "-0.1", "a finite number >= 0"),
    ],
    "dqn": [
        ("--exploration", "3", f"{SCHEDULE} >= 0 and <= 1"),
        ("--exploration", "1:0@0", f"{SCHEDULE} >= 0 and <= 1"),
        ("--buffer-size", "0", "a whole number >= 1"),
        ("--batch-size", "0", "a whole number >= 1"),
        ("--target-interval", "0", "a whole number >= 1"),
        ("--n-step", "0", "a whole number >= 1"),
        ("--train-every", "0", "a whole number >= 1"),
        ("--learning-starts", "-1", "a whole number >= 0"),
        ("--gradient-steps", "0", "a whole number >= 1"),
        ("--target-rate", "0", "a finite number > 0 and <= 1"),
        ("--target-rate", "5", "a finite number > 0 and <= 1"),
        ("--atoms", "1", "a whole number >= 2"),
        ("--v-min", "-inf", "a finite number >= -1e+09 and <= 1e+09"),
        ("--v-max", "nan", "a finite number >= -1e+09 and <= 1e+09"),
        ("--values", "median", "mean or c51 or quantiles"),
        ("--priority-exponent", "2", "a finite number >= 0 and <= 1"),
        ("--importance-exponent", "0.4:1.5", f"{SCHEDULE} >= 0 and <= 1"),
        ("--optimizer", "lion", "sgd or momentum or rmsprop or adam or adamw"),
        ("--optimizer-eps", "0", "a finite number > 0"),
        ("--head-hidden", "8,0", "whole numbers separated by commas, each >= 1 and <= 16384"),
    ],
    "pqn": [
        ("--q-lambda", "7", "a finite number >= 0 and <= 1"),
        ("--n-steps", "0", "a whole number >= 1"),
        ("--epochs", "0", "a whole number >= 1"),
        ("--minibatch-size", "0", "a whole number >= 1"),
        ("--exploration", "-0.1", f"{SCHEDULE} >= 0 and <= 1"),
        ("--exploration", "1:0.1:bent", f"{SCHEDULE} >= 0 and <= 1"),
        ("--norm", "batch", "none or layer"),
    ],
    "sac": [
        ("--target-rate", "5", "a finite number > 0 and <= 1"),
        ("--temperature", "0", "a finite number > 0"),
        ("--target-entropy", "nan", "a finite number >= -20 and <= 0.5"),
        ("--buffer-size", "0", "a whole number >= 1"),
        ("--batch-size", "0", "a whole number >= 1"),
        ("--train-every", "0", "a whole number >= 1"),
        ("--n-step", "0", "a whole number >= 1"),
    ],
}
OWN["rainbow"] = OWN["dqn"]
OF_VALUES = ("--atoms", "--v-min", "--v-max", "--values")
OWN["r2d2"] = [
    *(told for told in OWN["dqn"] if told[0] not in OF_VALUES),
    ("--burn-in", "-1", "a whole number >= 0"),
    ("--unroll", "0", "a whole number >= 1"),
    ("--core", "none", "rnn or gru or lstm or gtrxl"),
    ("--core-width", "0", "a whole number >= 1 and <= 16384"),
]
OTHERWISE = {("sac", "--max-grad-norm"): "a finite number >= 0"}
VALUES = [
    (agent, flag, value, OTHERWISE.get((agent, flag), allowed))
    for agent in EVERY
    for flag, value, allowed in BOTH + OWN[agent]
]


@pytest.mark.parametrize(("agent", "flag", "value", "allowed"), VALUES)
def test_values_out_of_range(cli, agent, flag, value, allowed):  # faults 27 to 30
    done = cli("train", agent, "CartPole", f"{flag}={value}")
    assert done.status == 2
    name = flag[2:].replace("-", "_")
    assert done.error.startswith(f"{name} ({flag}) is ")
    assert done.error.endswith(f"; allowed: {allowed}")
    shown = done.error.removeprefix(f"{name} ({flag}) is ").removesuffix(f"; allowed: {allowed}")
    assert shown in (value, repr(value), str(float(value)) if value == "7" else shown)
    assert not Path("runs").exists()


def test_values_out_of_range_are_refused_in_the_library(tmp_path):  # faults 27 to 30
    run_options = RunOptions(run_dir=str(tmp_path))
    for changes in ({"gamma": 1.5}, {"steps": 1.5}, {"steps": True}, {"gamma": "0.9"}):
        (name,) = changes
        with pytest.raises(UsageError, match=f"^{name} "):
            rlkit.train("a2c", "CartPole", changes, run_options)
    with pytest.raises(UsageError, match=r"^seed \(--seed\) is -1; allowed: a whole number >= 0$"):
        RunOptions(seed=-1)
    assert list(tmp_path.iterdir()) == []


def test_every_number_of_a_recipe_has_a_bound():
    for entry in REGISTRY.values():
        for option in (*read_options(entry.target), *options(RunOptions)):
            if option.type in ("int", "float", "tuple[int, ...]"):
                assert option.low is not None or option.above is not None, option.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "a2", "CartPole"), "unknown agent 'a2'; did you mean a2c?"),
        (("train", "zzz", "CartPole"), "unknown agent 'zzz'; known: a2c, double-q-learning, dqn"),
        (("train", "a2c", "CartPol"), "unknown env 'CartPol'; did you mean CartPole"),
        (("train", "a2c", "CartPole-v7"), "unknown env 'CartPole-v7'; did you mean CartPole-v1"),
        (("train", "a2c", "gridwrld"), "unknown env 'gridwrld'; did you mean gridworld"),
        (
            ("train", "a2c", "CartPole", "--gama", "1"),
            "No such option '--gama'. Did you mean '--ga",
        ),
        (("train", "rainbo", "CartPole"), "unknown agent 'rainbo'; did you mean rainbow?"),
        (("trian", "a2c", "CartPole"), "unknown command 'trian'; did you mean train?"),
        (("evaluate", "a2c-CartPole-v1-1"), "unknown run 'a2c-CartPole-v1-1'; did you mean a2c-Ca"),
        (
            ("resume", "a2c-CartPole-v0-0"),
            "unknown run 'a2c-CartPole-v0-0'; did you mean a2c-CartP",
        ),
        (
            ("train", "a2c", "gridworld", "--env-option", "siz=4"),
            "env rlkit/GridWorld-v0 has no op",
        ),
        (
            ("train", "a2c", "CartPole", "--device", "banana"),
            "device (--device) is 'banana'; allow",
        ),
        (
            ("train", "a2c", "CartPole", "--vectorization", "no"),
            "vectorization (--vectorization) i",
        ),
        (("train", "a2c"), "Missing argument 'ENV'."),
    ],
)
def test_misspelt_names(cli, words, message):  # fault 31
    Path("runs/a2c-CartPole-v1-0").mkdir(parents=True)
    Path("runs/a2c-CartPole-v1-0/config.json").write_text("{}")
    done = cli(*words)
    assert done.status == 2
    assert done.error.startswith(message)


@pytest.mark.parametrize(
    ("agent", "wrong", "right"),
    [
        ("a2c", "--entropy-coast", "--entropy-cost"),
        ("ppo", "--clipp", "--clip"),
        ("pqn", "--qlambda", "--q-lambda"),
        ("dqn", "--priority-exp", "--priority-exponent"),
        ("rainbow", "--atom", "--atoms"),
        ("sac", "--temprature", "--temperature"),
    ],
)
def test_misspelt_options_of_every_agent(cli, agent, wrong, right):  # fault 31
    done = cli("train", agent, "CartPole", wrong, "1")
    assert done.status == 2
    assert done.error.startswith(f"No such option '{wrong}'. ")
    assert f"'{right}'" in done.error.partition("id you mean ")[2]


def test_a_device_that_is_not_there(cli, monkeypatch):  # fault 32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:7"):
        done = cli("train", "a2c", "CartPole", "--device", device)
        assert done.status == 2
        assert done.error.startswith(f"device (--device) is {device}, and torch ")
        assert "sees 0 CUDA devices here; use --device cpu or auto" in done.error
    assert not Path("runs").exists()
    done = cli("train", "a2c", "CartPole", *SMALL["a2c"], "--device", "auto")
    assert "200 steps on 2 environments, cpu" in done.out
    assert cli("evaluate", "a2c-CartPole-v1-0", "--device", "cuda").status == 2


def test_the_evaluation_is_refused_bad_numbers(cli):
    for option, value, low in (("--episodes", 0, 1), ("--episodes", -1, 1), ("--seed", -1, 0)):
        done = cli("evaluate", "any", option, value)
        assert done.status == 2
        name = option[2:]
        assert done.error == f"{name} ({option}) is {value}; allowed: a whole number >= {low}"


def python(script, *args):
    """Run a script in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done


def test_refusing_needs_no_torch():
    script = """if True:
        import json, sys
        from rlkit.cli import main
        for words in json.loads(sys.argv[1]):
            try:
                main(words)
            except SystemExit as end:
                assert end.code == 2, words
            assert "torch" not in sys.modules, words
    """
    calls = [["train", agent, "CartPole", flag, value] for agent, flag, value, _ in VALUES]
    calls += [["train", "a2", "CartPole"], ["train", "a2c"], ["train"], [], ["tran"]]
    done = python(script, json.dumps(calls))
    assert done.stdout == ""
    assert done.stderr.count("Error: ") == len(calls) - 2  # two show the help


EVIL = "__import__('os').mkdir('executed')"


@pytest.mark.parametrize("env", [PATIENT, "gridworld"], ids=["patient", "gridworld"])
def test_values_of_options_are_literals(cli, env):  # fault 40
    option = "symptom" if env == PATIENT else "size"
    done = cli("train", "a2c", env, *SMALL["a2c"], "--env-option", f"{option}={EVIL}")
    assert done.status == 2
    assert ("could not be made" if env == PATIENT else "size is ") in done.error
    for value in ("(" * 500, "-" * 100_000 + "1"):
        assert cli("train", "a2c", env, "--env-option", f"{option}={value}").status == 2
    for flag in ("--gamma", "--hidden", "--seed", "--device", "--steps"):
        assert cli("train", "a2c", "CartPole", flag, EVIL).status == 2
    assert not Path("executed").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON: "),
        (EVIL, "not JSON: "),
        ("[" * 100_000, "not JSON: "),
        ('{"gamma": NaN}', "not JSON: NaN is not a JSON number"),
        ("[1]", "holds a JSON list, expected an object"),
        ('{"recipe": 3}', "recipe is a int; allowed: an object"),
        ('{"gama": 0.9}', "unknown option 'gama'; did you mean gamma?"),
        ('{"recipe": {"gama": 0.9}}', "unknown option 'gama'; did you mean gamma?"),
        ('{"gamma": "0.9"}', "gamma (--gamma) is '0.9'; allowed: a finite number >= 0 and <= 1"),
        ('{"gamma": 1.5}', "gamma (--gamma) is 1.5; allowed: a finite number >= 0 and <= 1"),
        ('{"gamma": null}', "gamma (--gamma) is None; allowed: a finite number >= 0 and <= 1"),
        ('{"steps": 1e3}', "steps (--steps) is 1000.0; allowed: a whole number >= 1"),
        ('{"hidden": "8"}', "hidden (--hidden) is '8'; allowed: whole numbers separated by commas"),
        ('{"normalize_advantage": 1}', "normalize_advantage (--normalize-advantage) is 1; allowed"),
    ],
)
def test_config_files(cli, content, message):  # faults 27 to 31 and 40
    Path("told.json").write_text(content)
    done = cli("train", "a2c", "CartPole", "--config", "told.json")
    assert done.status == 2
    assert done.error.startswith(f"told.json: {message}")
    assert not Path("executed").exists()
    assert not Path("runs").exists()


def test_a_config_file_that_is_not_there_or_too_large(cli):
    done = cli("train", "a2c", "CartPole", "--config", "none.json")
    assert (done.status, done.error) == (2, "none.json: can't be read: No such file or directory")
    Path("large.json").write_text(" " * 2_000_000)
    done = cli("train", "a2c", "CartPole", "--config", "large.json")
    assert done.error.startswith("large.json: 2000000 bytes, at most 1048576 are read")


EVIL_ENV = """
import os
import gymnasium as gym
from gymnasium import spaces
os.mkdir("executed")
class Env(gym.Env):
    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)
"""


@pytest.mark.parametrize("name", ["evil_a.py:Env", "evil_b:Env", "evil_c:CartPole-v1"])
def test_a_strangers_run_imports_nothing(cli, monkeypatch, name):  # fault 40
    run = json.loads(cli("train", "a2c", "CartPole", *SMALL["a2c"], "--json").out)["run"]
    Path(name.partition(":")[0]).with_suffix(".py").write_text(EVIL_ENV)
    monkeypatch.syspath_prepend(os.getcwd())
    config = json.loads(Path(run, "config.json").read_text())
    Path(run, "config.json").write_text(json.dumps({**config, "env": name}))
    for words in (["evaluate", run], ["resume", run, "--steps", 400], ["list", "runs"]):
        done = cli(*words)
        assert done.status == (0 if words[0] == "list" else 2)
        if done.status:
            assert f"trained on {name}, which is code outside the run; repeat it" in done.error
    with pytest.raises(UsageError, match="which is code outside the run"):
        rlkit.load(run)
    assert not Path("executed").exists()
    cli("evaluate", run, "--env", name)  # with the user's consent it is
    assert Path("executed").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": None}, "unknown agent 'None'"),
        ({"agent": ["a2c"]}, "unknown agent \"['a2c']\""),
        ({"agent": "os:system"}, "unknown agent 'os:system'"),
        ({"recipe": 3}, "not as a run's config is written"),
        ({"recipe": {"gamma": 9}}, "gamma (--gamma) is 9; allowed"),
        ({"recipe": {"gama": 9}}, "unknown option 'gama'; did you mean gamma?"),
        ({"env_options": "size"}, "not as a run's config is written"),
        ({"seed": "1"}, "seed (--seed) is '1'; allowed: a whole number"),
    ],
)
def test_a_config_that_was_changed_by_hand(cli, changes, message):
    run = json.loads(cli("train", "a2c", "CartPole", *SMALL["a2c"], "--json").out)["run"]
    path = Path(run, "config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))
    for command in ("evaluate", "resume"):
        done = cli(command, run)
        assert done.status == 2
        assert done.error.startswith(f"{path}: {message}")
    path.write_text(json.dumps({name: config[name] for name in ("format", "env")}))
    assert cli("evaluate", run).error.startswith(f"{path}: not as a run's config is written")


@pytest.mark.parametrize("agent", AGENTS)
def test_names_never_lead_out_of_the_run_folder(cli, agent):  # fault 41
    Path("sub").mkdir()
    Path("sub/my env.py").write_text(Path(PATIENT.rpartition(":")[0]).read_text())
    env = "sub/../sub/my env.py:Patient"
    done = cli("train", agent, env, *SMALL[agent], "--run-dir", "here/[red]runs[", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["run"] == f"here/[red]runs[/{agent}-Patient-0"
    assert "run folder: here/[red]runs[/" in done.err
    assert [path.name for path in Path("here").iterdir()] == ["[red]runs["]
    assert [path.name for path in Path("here/[red]runs[").iterdir()] == [f"{agent}-Patient-0"]
    for env in ("../../x", "/etc/passwd", "a\0b", "..", ""):
        assert cli("train", agent, env).status == 2
        assert cli("evaluate", env).status == 2
    assert cli("train", agent, "CartPole", "--run-dir", "a\0b").status == 2
    assert not Path("runs").exists()
