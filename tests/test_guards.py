"""What stops a run before it learns from bad numbers, and what it leaves for inspection."""

import errno
import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from patient import Lever, Patient
from scripted_envs import TERMINATED, TRUNCATED, Scripted
from small_runs import EVERY, PATIENT, SMALL, patient_of, vector_of

import rlkit
from rlkit.envs.vector import Envs
from rlkit.errors import EnvError, RlkitWarning, RunError
from rlkit.experience.step import Step
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training import black_box, build
from rlkit.training.black_box import KEPT, BlackBox
from rlkit.training.trainer import Trainer

PLAIN = {"envs": 2, "hidden": (8,), "steps": 100}
REPLAYED = PLAIN | {"learning_starts": 8, "train_every": 4, "gradient_steps": 1, "batch_size": 8}
REPLAYED |= {"buffer_size": 100}
RECIPES = {
    "a2c": PLAIN,
    "ppo": PLAIN | {"n_steps": 5},
    "pqn": PLAIN | {"n_steps": 5},
    "dqn": REPLAYED,
    "rainbow": REPLAYED | {"head_hidden": (8,)},
    "r2d2": REPLAYED | {"core_width": 8, "burn_in": 2, "unroll": 4},
    "sac": REPLAYED,
}
FIELDS = ("obs", "action", "reward", "terminated", "truncated", "valid", "next_obs")


def read(path):
    """A file of the last steps, as one who doesn't trust it reads it."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def stopped(agent, make, tmp_path, recipe=None, **options):
    """A run that an error stops: the error, and what is in its folder."""
    options = {"run_dir": str(tmp_path), "save_every": 10, "eval_every": 10**6, **options}
    with pytest.raises(RunError) as error:
        rlkit.train(agent, make, RECIPES[agent] | (recipe or {}), options)
    (run,) = tmp_path.iterdir()
    return error.value, run


@pytest.fixture
def steps(monkeypatch):
    """Copies of all steps that environments have returned, made as they returned them."""
    taken = []
    step = Envs.step

    def recorded(envs, action):
        found = step(envs, action)
        taken.append({name: np.copy(getattr(found, name)) for name in FIELDS})
        return found

    monkeypatch.setattr(Envs, "step", recorded)
    return taken


@pytest.mark.parametrize("agent", EVERY)
def test_the_last_steps_before_a_fault_are_written(agent, tmp_path, steps):
    kind = Lever if agent == "sac" else Patient
    error, run = stopped(agent, lambda: kind("nan", onset=30), tmp_path)
    (file,) = (run / "faults").glob("*.npz")
    assert str(file) in str(error)
    found = read(file)
    last = steps[-KEPT:]
    assert len(last) == KEPT
    for name in FIELDS:  # nothing was written over what is kept by reference
        assert np.array_equal(found[name], np.stack([step[name] for step in last])), name
    assert found["obs"].shape == (KEPT, 2, 4)
    assert found["step"].tolist() == list(range(2 * len(steps) - 2 * KEPT, 2 * len(steps), 2))
    assert found["env"].tolist() == [0, 1]
    # and of the step that was refused, both sides
    assert np.array_equal(found["sent_obs"], last[-1]["next_obs"])
    assert found["sent_action"].shape == last[-1]["action"].shape
    assert np.isnan(found["returned_obs"][:, 1]).all()
    assert found["returned_reward"].tolist() == [1.0, 1.0]
    assert found["returned_terminated"].tolist() == [False, False]


def test_the_report_says_what_happened_and_how_to_go_on(cli):
    told = ("--env-option", "symptom=nan", "--env-option", "onset=45", "--save-every", 10)
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], *told)
    run = Path("runs/a2c-Patient-0")
    about = json.loads((run / "faults" / "step-000000000096.json").read_text())
    again = f"rlkit resume {run} --env {PATIENT}"
    assert about["error"].startswith("EnvError: env 0 returned observation[1] = nan at vector step")
    assert (about["run"], about["step"], about["saved_step"]) == (str(run), 96, 90)
    assert (about["agent"], about["env"], about["go_on"]) == ("a2c", PATIENT, again)
    assert about["versions"] == json.loads((run / "config.json").read_text())["versions"]
    assert about["arrays"]["reward"] == "float32 (16, 2)"
    assert about["arrays"].keys() == read(run / "faults" / "step-000000000096.npz").keys()
    assert "EnvError" in about["traceback"][-1]
    assert again in done.error
    # The command works: on the environment as it is then, which is ill from its 45th step on.
    resumed = cli(*again.split()[1:], "--steps", 130)
    assert resumed.status == 0, resumed.err


def test_an_update_that_overflows_is_explained_by_the_steps_before_it(tmp_path):
    error, run = stopped("ppo", lambda: Patient("huge-reward", onset=17), tmp_path)
    assert "overflowed" in str(error)
    (file,) = (run / "faults").glob("*.npz")
    found = read(file)
    assert found["reward"].max() == np.float32(3e38)
    assert not [name for name in found if name.startswith(("sent", "returned"))]


@pytest.mark.parametrize("agent", EVERY)
def test_weights_that_are_not_finite_are_never_used(agent, tmp_path, monkeypatch):
    learners = []
    make_agent = build.make_agent
    monkeypatch.setattr(
        build, "make_agent", lambda *a: learners.append(make_agent(*a)) or learners[0]
    )
    acted = []
    act = Trainer._step

    def watched(self):
        acted.append(bool(torch.isfinite(vector_of(self.agent.state_dict())).all()))
        act(self)

    monkeypatch.setattr(Trainer, "_step", watched)
    kind = Lever if agent == "sac" else Patient
    recipe = {"learning_rate": 1e38}
    error, run = stopped(agent, kind, tmp_path, recipe, save_every=2)
    assert "a step with learning rate 1e+38 left weights that are not finite; " in str(error)
    assert not torch.isfinite(vector_of(learners[0].state_dict())).all()
    assert len(acted) > 2
    assert all(acted)
    saved = vector_of(load_checkpoint(run).tree["agent"]["weights"])
    assert torch.isfinite(saved).all()


@pytest.mark.parametrize("agent", EVERY)
def test_weights_that_turn_nan_in_any_other_way_stop_the_run_too(agent, tmp_path, monkeypatch):
    step = Trainer._step

    def poisoned(self):
        if self.steps == 40:
            for weight in self.agent.parameters():
                weight.data.fill_(np.nan)
        step(self)

    monkeypatch.setattr(Trainer, "_step", poisoned)
    kind = Lever if agent == "sac" else Patient
    error, run = stopped(agent, kind, tmp_path, save_every=20)
    assert type(error) is RunError
    assert re.search(r"\(step [45]\d of ", str(error))  # at the next update or action at most
    assert load_checkpoint(run).step == 40
    assert (run / "faults").is_dir()


def test_any_other_error_keeps_its_type_and_its_steps(tmp_path, monkeypatch):
    def defect(self, batch):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("rlkit.agents.a2c.A2C.update", defect)
    with (
        pytest.raises(ZeroDivisionError, match="a defect"),
        pytest.warns(RlkitWarning, match=r"the run stopped: step 10 of .*; nothing was saved yet"),
    ):
        rlkit.train("a2c", Patient, RECIPES["a2c"], {"run_dir": str(tmp_path)})
    (file,) = tmp_path.glob("*/faults/*.npz")
    assert read(file)["reward"].shape == (5, 2)


def test_a_full_disk_does_not_hide_the_error(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(black_box, "write_atomically", full)
    error, run = stopped("a2c", lambda: Patient("inf-reward", onset=30), tmp_path)
    assert type(error) is EnvError
    assert str(error).startswith("env 0 returned reward = inf at vector step ")
    assert "; the last steps could not be written: OSError: [Errno 28] No space left" in str(error)
    assert load_checkpoint(run).step > 0


def test_nothing_is_written_through_a_link(tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    step = Trainer._step

    def linked(self):
        if self.steps == 40:
            (self.folder.path / "faults").symlink_to(outside)
        step(self)

    monkeypatch.setattr(Trainer, "_step", linked)
    runs = tmp_path / "runs"
    runs.mkdir()
    error, _ = stopped("a2c", lambda: Patient("nan", onset=30), runs)
    assert "; the last steps could not be written: OSError: " in str(error)
    assert list(outside.iterdir()) == []


class Rooms(gym.Env):
    """Observations in parts; the reward is NaN at the last step of the third episode."""

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "arm": spaces.Tuple([spaces.Box(-1, 1, (3,)), spaces.Discrete(4, start=-2)]),
        }
    )
    action_space = spaces.Discrete(2)
    count = 0

    def _look(self):
        self.count += 1
        camera = np.full((4, 4, 3), self.count, np.uint8)
        return {"camera": camera, "arm": (np.full(3, self.count / 100, np.float32), -2)}

    def reset(self, *, seed=None, options=None):
        return self._look(), {}

    def step(self, action):
        obs = self._look()
        over = self.count % 10 == 0
        return obs, np.nan if self.count == 30 else 1.0, over, False, {}


def test_observations_in_parts_are_readable(tmp_path):
    _, run = stopped("a2c", Rooms, tmp_path, {"envs": 1})
    (file,) = (run / "faults").glob("*.npz")
    found = read(file)
    assert found["obs['camera']"].shape == (KEPT, 1, 4, 4, 3)
    assert found["obs['camera']"][:, 0, 0, 0, 0].tolist() == list(range(13, 29))
    assert found["next_obs['arm'][0]"][:, 0, 1] == pytest.approx(np.arange(14, 30) / 100)
    assert found["obs['arm'][1]"].dtype == np.int64
    assert set(found["obs['arm'][1]"].ravel()) == {0}  # as the agent sees it
    assert found["returned_obs['camera']"][0, 0, 0, 0] == 30
    assert np.isnan(found["returned_reward"]).all()


def test_final_observations_of_same_step_autoreset_are_kept(tmp_path):
    class Ill(Scripted):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward * (np.nan if self.row == 12 else 1), *rest

    venv = Ill([[0, 0, TERMINATED, 0, TRUNCATED], [0, 0, 0, TRUNCATED]], "same_step")
    _, run = stopped("a2c", venv, tmp_path)
    (file,) = (run / "faults").glob("*.npz")
    found = read(file)
    ended = found["terminated"] | found["truncated"]
    assert ended.sum() >= 6
    assert np.array_equal([found["final_row"], found["final_env"]], ended.nonzero())
    logged = [
        venv.log[env][row].next_obs
        for row, env in zip(found["final_row"], found["final_env"], strict=True)
    ]
    assert np.array_equal(found["final_obs"], np.array(logged, np.float32))


def test_of_large_observations_fewer_steps_are_kept(tmp_path):
    for megabytes, carry, kept in ((1, None, 16), (16, None, 3), (0, torch.zeros(1 << 22), 3)):
        space = spaces.Box(0, 255, (1 + (megabytes << 20),), np.uint8)
        box = BlackBox(space, 1, carry)
        nothing = np.zeros(1)
        for _ in range(20):
            obs = np.zeros((1, *space.shape), np.uint8)
            box.add(Step(obs, nothing, nothing, nothing, nothing, nothing, obs))
        path = box.write(tmp_path, 20, RunError("an error"), None, {})
        assert len(read(path)["obs"]) == kept


def test_an_error_after_resuming_knows_what_is_saved(cli):
    cli("train", "a2c", PATIENT, *SMALL["a2c"])
    run = "runs/a2c-Patient-0"
    config = Path(run, "config.json")
    told = json.loads(config.read_text())
    told["env_options"] = {"symptom": "nan", "onset": 3}
    config.write_text(json.dumps(told))
    done = cli("resume", run, "--env", PATIENT, "--steps", 300)
    assert done.status == 1
    assert "; step 200 is saved, go on with: rlkit resume " in done.error


@pytest.mark.parametrize("agent", ["a2c", "sac"])
def test_a_fault_in_an_evaluation_says_so(cli, agent):
    # Of 3 evaluation episodes each environment plays one, of 10 steps; training takes 50 by then.
    ill = ("--env-option", "symptom=nan", "--env-option", "onset=9", "--eval-every", 8)
    done = cli("train", agent, patient_of(agent), *SMALL[agent], *ill)
    assert done.error.startswith("in the evaluation, env 0 returned observation[1] = nan at vector")
    assert "(step 8 of runs/" in done.error
    assert not list(Path("runs").glob("*/faults"))
