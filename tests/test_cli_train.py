"""`rlkit train`, `evaluate`, `resume` and `list`, as a newcomer calls them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import AGENTS, PATIENT, SMALL, env_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

import rlkit
from rlkit.cli import COMMANDS
from rlkit.recipe import read_options
from rlkit.registry import AGENTS as REGISTRY
from rlkit.registry import ENVS, SOLVERS
from rlkit.run.metrics import read_metrics
from rlkit.training import build

TRAINED = ["run", "agent", "env", "steps", "seconds", "final_return"]


@pytest.mark.parametrize("agent", AGENTS)
def test_json_is_one_object_and_all_of_standard_output(cli, agent):
    done = cli("train", agent, "CartPole", *SMALL[agent], "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert list(found) == TRAINED
    run = f"runs/{agent}-CartPole-v1-0"
    assert (found["run"], found["agent"], found["env"]) == (run, agent, "CartPole-v1")
    assert found["steps"] == 200
    assert found["seconds"] > 0
    assert f"greedy return {found['final_return']:.2f} ± " in done.err
    assert "200 steps, " in done.err

    played = cli("evaluate", run, "--episodes", 4, "--seed", 2, "--json")
    assert played.out.count("\n") == 1
    result = json.loads(played.out)
    assert list(result) == ["run", "episodes", "mean_return", "std_return", "returns"]
    assert (result["run"], result["episodes"]) == (run, 4)
    assert result["mean_return"] == pytest.approx(np.mean(result["returns"]))
    assert result["std_return"] == pytest.approx(np.std(result["returns"]))
    assert result["returns"] == list(rlkit.evaluate(run, 4, 2).returns)
    assert "over 4 greedy episodes" in played.err

    resumed = cli("resume", Path(run).name, "--steps", 300, "--json")
    assert list(json.loads(resumed.out)) == TRAINED
    assert json.loads(resumed.out)["steps"] == 300


def test_without_json_the_text_is_on_standard_output(cli):
    done = cli("train", "a2c", "CartPole", *SMALL["a2c"], "--steps", 2000, "--eval-episodes", 20)
    assert (done.status, done.err) == (0, "")
    first, folder, *progress, verdict, last = done.out.splitlines()
    assert first == (
        "a2c with the recipe tuned for CartPole-v1 but envs = 2, hidden = [8]: "
        "2,000 steps on 2 environments, cpu"
    )
    assert folder == "run folder: runs/a2c-CartPole-v1-0  (tensorboard --logdir runs)"
    assert progress[-1].startswith("100 %  step 2,000 of 2,000  return ")
    told = (
        r"greedy return \d+\.\d\d ± \d+\.\d\d over 20 fresh episodes: not solved \(threshold 475\)"
    )
    assert re.fullmatch(told, verdict)
    assert re.fullmatch(
        r"2,000 steps, \d+\.\d s of training; look at it: rlkit evaluate .*-0", last
    )
    done = cli("evaluate", "a2c-CartPole-v1-0", "--episodes", 3)
    assert (done.status, done.err) == (0, "")
    mean, returns = done.out.splitlines()
    assert re.fullmatch(r"mean return \d+\.\d\d ± \d+\.\d\d over 3 greedy episodes", mean)
    assert len(returns.removeprefix("returns: ").split()) == 3


def test_long_lines_come_out_in_one_piece(cli):
    run_dir = "a-folder-whose-name-is-longer-than-a-terminal-is-wide/" * 3 + "runs"
    done = cli("train", "a2c", "CartPole", *SMALL["a2c"], "--run-dir", run_dir)
    assert done.out.splitlines()[-1].endswith(f"rlkit evaluate {run_dir}/a2c-CartPole-v1-0")


def test_options_reach_the_run(cli):
    words = ["--gamma", "0.9", "--hidden", "16,8", "--normalize-advantage", "--optimizer", "adam"]
    words += ["--seed", "7", "--eval-every", "100", "--save-every", "50", "--threads", "2"]
    words += ["--env-option", "sutton_barto_reward=True", "--vectorization", "sync", "--strict"]
    done = cli("train", "a2c", "CartPole", *SMALL["a2c"], *words, "--json")
    config = json.loads(Path(json.loads(done.out)["run"], "config.json").read_text())
    recipe = config["recipe"]
    assert recipe["gamma"] == 0.9
    assert recipe["hidden"] == [16, 8]
    assert recipe["normalize_advantage"] is True
    assert recipe["optimizer"] == "adam"
    assert (recipe["envs"], recipe["steps"]) == (2, 200)
    assert (config["seed"], config["eval_every"], config["save_every"]) == (7, 100, "50")
    assert (config["threads"], config["vectorization"], config["strict"]) == (2, "sync", True)
    assert config["env_options"] == {"sutton_barto_reward": True}
    again = cli(
        "train", "a2c", "CartPole", *SMALL["a2c"], *words, "--no-normalize-advantage", "--json"
    )
    config = json.loads(Path(json.loads(again.out)["run"], "config.json").read_text())
    assert config["recipe"]["normalize_advantage"] is False


TUNED = [agent for agent in AGENTS if "CartPole-v1" in build.agent_class(agent).recipes]


@pytest.mark.parametrize("agent", TUNED)
def test_a_tuned_recipe_where_there_is_one(cli, agent):
    agent_type = build.agent_class(agent)
    own = dict(zip(SMALL[agent][::2], SMALL[agent][1::2], strict=True))
    changed = {name.removeprefix("--").replace("-", "_") for name in own}
    for env, known in (("CartPole", True), (PATIENT, False)):
        done = cli("train", agent, env, *SMALL[agent], "--json")
        found = json.loads(Path(json.loads(done.out)["run"], "config.json").read_text())["recipe"]
        tuned, default = agent_type.recipes["CartPole-v1"].recipe, build.defaults(agent_type)
        expected = (tuned if known else default).to_json()
        unchanged = expected.keys() - changed
        assert {name: found[name] for name in unchanged} == {n: expected[n] for n in unchanged}
        assert ("the recipe tuned for" if known else "the default recipe on") in done.err
    assert tuned != default


def test_a_config_file_and_options_over_it(cli):
    Path("told.json").write_text('{"gamma": 0.5, "hidden": [8], "steps": 80, "envs": 4}')
    words = ("--config", "told.json", "--gamma", "0.25", "--eval-episodes", 2, "--json")
    first = json.loads(cli("train", "a2c", "CartPole", *words).out)["run"]
    recipe = json.loads(Path(first, "config.json").read_text())["recipe"]
    assert (recipe["gamma"], recipe["hidden"], recipe["steps"]) == (0.25, [8], 80)
    # Another run's config.json does as well.
    words = ("--config", f"{first}/config.json", "--eval-episodes", 2, "--json")
    second = json.loads(cli("train", "a2c", "Acrobot", *words).out)["run"]
    assert json.loads(Path(second, "config.json").read_text())["recipe"] == recipe


@pytest.mark.parametrize(
    ("agent", "asked", "unit", "taken"),
    [
        ("a2c", 7, 10, 10),
        ("ppo", 11, 10, 20),
        ("pqn", 7, 10, 10),
        ("dqn", 7, 2, 8),
        ("sac", 3, 2, 4),
    ],
)
def test_steps_are_rounded_up_and_it_says_so(cli, agent, asked, unit, taken):  # fault 29
    done = cli("train", agent, env_of(agent), *SMALL[agent], "--steps", asked)
    assert (
        f"{asked} steps were asked for; training goes in units of {unit} steps, so it takes {taken}"
        in done.out
    )
    assert f"{taken} steps, " in done.out.splitlines()[-1]
    whole = cli("train", agent, env_of(agent), *SMALL[agent], "--steps", taken)
    assert "were asked for" not in whole.out


def test_what_a_run_folder_holds(cli):
    run = Path(json.loads(cli("train", "a2c", "CartPole", *SMALL["a2c"], "--json").out)["run"])
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock",
        "checkpoints",
        "config.json",
        "env.json",
        "events.out.tfevents.0000",
        "metrics.jsonl",
    ]
    assert json.loads((run / "env.json").read_text())["id"] == "CartPole-v1"
    config = json.loads((run / "config.json").read_text())
    assert set(config["versions"]) == {"rlkit", "python", "torch", "gymnasium", "numpy"}
    suffixes = {path.suffix for path in run.rglob("*") if path.is_file()}
    # "": latest, best and .lock
    assert suffixes == {".json", ".jsonl", ".safetensors", ".0000", ""}


@pytest.mark.parametrize("agent", AGENTS)
def test_tensorboard_reads_what_a_run_measured(cli, agent):
    words = ("--steps", 400, "--eval-every", 100, "--seed", 4, "--envs", 1, "--json")
    run = json.loads(cli("train", agent, "CartPole", *SMALL[agent], *words).out)["run"]
    events = EventAccumulator(run, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    shown = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.scalars.Keys()}
    update = {
        "a2c": ("policy_loss", "value_loss", "entropy"),
        "ppo": ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "grad_norm"),
        "dqn": ("loss", "q_mean"),
    }[agent]
    wanted = {f"train/{name}" for name in (*update, "learning_rate")}
    wanted |= {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "eval/mean_reward"}
    wanted |= {"episode/return", "episode/length"}
    assert wanted <= shown.keys()
    lines = list(read_metrics(Path(run, "metrics.jsonl")))
    for tag in wanted - {"eval/mean_reward"}:
        told = [(line["step"], line[tag]) for line in lines if tag in line]
        steps, values = zip(*told, strict=True)
        assert [step for step, _ in shown[tag]] == [*steps]
        assert [value for _, value in shown[tag]] == pytest.approx(values, rel=1e-6)
    assert dict(shown["eval/mean_reward"]).keys() == {100, 200, 300, 400}
    # In CartPole the return is the length; the rollout's mean is over the last hundred episodes,
    # of which no two end together in one environment.
    assert [value for _, value in shown["episode/return"]] == [
        value for _, value in shown["episode/length"]
    ]
    recent = [value for _, value in shown["episode/return"]][-100:]
    assert shown["rollout/ep_rew_mean"][-1][1] == pytest.approx(np.mean(recent), rel=1e-6)
    assert shown["rollout/ep_rew_mean"][-1][0] == 400

    (text,) = tensor_util.make_ndarray(events.Tensors("config")[0].tensor_proto).flatten()
    assert "| agent | " + agent in text.decode()
    assert "| seed | 4 |" in text.decode()
    assert "| recipe.hidden | [8] |" in text.decode()
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    told = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["agent"].string_value == agent
    assert (
        told["gamma"].number_value
        == json.loads(Path(run, "config.json").read_text())["recipe"]["gamma"]
    )


def test_lists(cli):
    for kind, known in (("agents", REGISTRY), ("solvers", SOLVERS)):
        found = json.loads(cli("list", kind, "--json").out)
        assert list(found) == [kind]
        assert [row[kind[:-1]] for row in found[kind]] == list(known)
        assert all(name in cli("list", kind).out for name in known)
    envs = json.loads(cli("list", "envs", "--json").out)["envs"]
    assert {"CartPole", *ENVS} <= {row["env"] for row in envs}
    wrong = cli("list", "modles")
    assert (wrong.status, wrong.err) == (
        2,
        "Error: unknown listing 'modles'; did you mean models?\n",
    )
    assert cli("list", "runs").out == "no runs yet\n"
    assert json.loads(cli("list", "runs", "--json").out) == {"runs": []}
    for agent in AGENTS:
        cli("train", agent, "CartPole", *SMALL[agent])
    rows = json.loads(cli("list", "runs", "--json").out)["runs"]
    assert [row["run"] for row in rows] == [f"runs/{a}-CartPole-v1-0" for a in AGENTS]
    assert [(row["agent"], row["env"], row["steps"]) for row in rows] == [
        (agent, "CartPole-v1", 200) for agent in AGENTS
    ]
    assert "runs/dqn-CartPole-v1-0" in cli("list", "runs").out
    assert cli("list", "runs", "--run-dir", "elsewhere").out == "no runs yet\n"


def test_help_lists_all_commands_and_options(cli):
    shown = cli("--help")
    assert shown.status == 0
    assert all(re.search(rf"^  {name} ", shown.out, re.MULTILINE) for name in COMMANDS)
    for command in COMMANDS:
        done = cli(command, "--help")
        assert (done.status, done.err) == (0, "")
        assert done.out.startswith(f"Usage: rlkit {command} ")
    for agent, entry in REGISTRY.items():
        done = cli("train", agent, "--help")
        assert done.status == 0
        assert all(f" {option.flag}" in done.out for option in read_options(entry.target))
        assert agent in cli("train", "--help").out
    for words in ((), ("train",)):
        done = cli(*words)
        assert done.status == 2
        assert done.err.startswith("Usage: rlkit")


def test_debug_shows_the_traceback(cli):
    with pytest.raises(rlkit.errors.UsageError):
        cli("--debug", "train", "a2c", "NoSuchEnv")
    assert "Traceback" not in cli("train", "a2c", "NoSuchEnv").err


def test_python_m_rlkit(tmp_path):
    words = ["train", "a2c", "CartPole", *map(str, SMALL["a2c"]), "--json"]
    command = [sys.executable, "-m", "rlkit", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == TRAINED
    assert Path(tmp_path, json.loads(done.stdout)["run"]).is_dir()
