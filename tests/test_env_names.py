"""What an environment's name stands for, and what a user reads where it stands for nothing."""

import importlib.util
import sys

import gymnasium as gym
import pytest
from gymnasium.envs.registration import find_highest_version

from rlkit.envs.listing import list_envs
from rlkit.envs.make import make_env
from rlkit.envs.names import resolve, runs_code, short_name
from rlkit.envs.packages import PACKAGES, Package
from rlkit.errors import UsageError

MAZE = """
import gymnasium

class Maze(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(4)
    action_space = gymnasium.spaces.Discrete({actions})

    def __init__(self, slip=0.0):
        self.slip = slip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {{}}

    def step(self, action):
        return 0, 0.0, False, False, {{}}

class Compass:
    pass

def build():
    return Maze()
"""


@pytest.fixture
def maze_file(tmp_path, monkeypatch):
    """The current folder holds maze.py with Maze, a gymnasium.Env, and Compass, which is none."""
    (tmp_path / "maze.py").write_text(MAZE.format(actions=2))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "maze.py"


@pytest.fixture
def maze_module(tmp_path, monkeypatch):
    """The module maze_package registers MazeOfTests-v3."""
    text = MAZE.format(actions=2) + (
        "\ngymnasium.register('MazeOfTests-v3', entry_point='maze_package:Maze', "
        "max_episode_steps=9)\n"
    )
    (tmp_path / "maze_package.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("maze_package", None)
    gym.registry.pop("MazeOfTests-v3", None)


def refused(name, options=None):
    with pytest.raises(UsageError) as caught:
        make_env(name, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("CartPole", "CartPole-v1"),
        ("CartPole-v0", "CartPole-v0"),
        ("cartpole", "CartPole-v1"),
        ("CARTPOLE-V1", "CartPole-v1"),
        ("frozenlake8x8", "FrozenLake8x8-v1"),
        ("phys2d/cartpole", "phys2d/CartPole-v1"),
        ("gridworld", "rlkit/GridWorld-v0"),
        ("GridWorld", "rlkit/GridWorld-v0"),
        ("rlkit/GridWorld-v0", "rlkit/GridWorld-v0"),
        ("memory-corridor", "rlkit/MemoryCorridor-v0"),
        ("MemoryCorridor", "rlkit/MemoryCorridor-v0"),
        ("cartpolehidden-v0", "rlkit/CartPoleHidden-v0"),
    ],
)
def test_names_of_the_registry(name, full):
    assert resolve(name).name == full


def test_a_short_name_is_the_version_that_gymnasium_calls_highest():
    for spec in list(gym.registry.values()):
        if any(package.owns(spec) for package in PACKAGES):
            continue  # Pong is ALE/Pong-v5, and Gymnasium has Pong-v4 too
        highest = find_highest_version(spec.namespace, spec.name)
        if highest is not None:
            unversioned = spec.id.removesuffix(f"-v{spec.version}")
            found = resolve(unversioned).spec
            assert (found.namespace, found.name, found.version) == (
                spec.namespace,
                spec.name,
                highest,
            )


def test_making_says_nothing_and_adds_no_checker_of_gymnasiums():
    # Gymnasium warns of the old version and of the missing one; warnings are errors here.
    for name in ("CartPole", "CartPole-v0"):
        wrapped = str(make_env(name))
        assert "CartPole" in wrapped
        assert "PassiveEnvChecker" not in wrapped


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("CartPol", "did you mean CartPole or "),
        ("CartPole-v7", "did you mean CartPole-v1 or CartPole-v0"),
        ("LunarLander-v2", "did you mean LunarLander-v3"),
        ("gridwrld", "did you mean gridworld"),
        ("zzzz", "see 'rlkit list envs'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    message = refused(name)
    assert message.startswith(f"unknown env {name!r}; ")
    assert hint in message


def test_a_version_that_gymnasium_only_keeps_to_refuse_names_the_newest():
    message = refused("HalfCheetah-v2")
    assert message == "env HalfCheetah-v2 can't be made any more; use HalfCheetah-v5"


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("LunarLander", "Box2D", "gymnasium[box2d]"),
        ("HalfCheetah", "mujoco", "gymnasium[mujoco]"),
        ("phys2d/CartPole", "jax", "gymnasium[jax]"),
        ("ALE/Pong-v5", "ale_py", "ale-py"),
        ("PongNoFrameskip-v4", "ale_py", "ale-py"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
        ("BabyAI-BossLevel-v0", "minigrid", "minigrid"),
        ("MinAtar/Breakout-v1", "minatar", "minatar"),
    ],
)
def test_a_missing_package_is_named_with_what_pip_installs(name, module, install):
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    message = refused(name)
    assert "pip install" in message
    assert install in message


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("ALE/NoGame-v5", "ale-py"),
        ("NoGameNoFrameskip-v4", "ale-py"),
        ("MiniGrid-NoRoom-v0", "minigrid"),
        ("BabyAI-NoRoom-v0", "minigrid"),
        ("MinAtar/NoGame", "minatar"),
    ],
)
def test_a_package_that_would_register_the_name_is_named(name, install, monkeypatch):
    monkeypatch.setattr(Package, "installed", lambda self: False)
    message = refused(name)
    assert message == (f"env {name!r} needs a package that is not installed: pip install {install}")


def test_the_list_names_what_to_install(monkeypatch):
    monkeypatch.setattr(Package, "installed", lambda self: False)
    needs = {env.id: env.needs for env in list_envs()}
    assert needs["ALE/Pong-v5"] == "ale-py"
    assert needs["MiniGrid-Empty-5x5-v0"] == "minigrid"
    assert not [id for id in needs if id.startswith("ALE/Breakout")]


def test_file_and_class(maze_file):
    env = make_env("maze.py:Maze", {"slip": 0.25})
    assert type(env).__name__ == "Maze"
    assert env.slip == 0.25
    assert resolve(f"{maze_file}:Maze").spec is None


def test_a_file_is_read_once_and_again_when_it_has_changed(maze_file):
    first = make_env("maze.py:Maze")
    assert type(make_env("maze.py:Maze")) is type(first)
    maze_file.write_text(MAZE.format(actions=17))
    assert make_env("maze.py:Maze").action_space.n == 17


def test_a_file_finds_the_modules_beside_it_and_leaves_sys_path_alone(maze_file, monkeypatch):
    (maze_file.parent / "beside_the_maze.py").write_text("SIZE = 6\n")
    maze_file.write_text("from beside_the_maze import SIZE\n" + MAZE.format(actions="SIZE"))
    before = list(sys.path)
    assert make_env("maze.py:Maze").action_space.n == 6
    assert sys.path == before
    monkeypatch.syspath_prepend(maze_file.parent)
    before = list(sys.path)
    maze_file.write_text(MAZE.format(actions=8))
    assert make_env("maze.py:Maze").action_space.n == 8
    assert sys.path == before


def test_a_file_does_not_stand_in_for_a_module_of_its_name(maze_file):
    import random

    maze_file.rename("random.py")
    make_env("random.py:Maze")
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maze.py", "name the class in it too, as in maze.py:MyEnv"),
        ("mazes.py:Maze", "was not found; did you mean maze.py?"),
        ("nowhere/maze.py:Maze", "was not found; no such folder"),
        ("maze.py:Mase", "maze.py has no environment 'Mase'; did you mean Maze?"),
        ("maze.py:Qqqqqq", "it has: Maze"),
        ("maze.py:Compass", "is a class of object; derive it from gymnasium.Env"),
        ("maze.py:build", "is a function, not a class"),
        ("maze.py:", "write file.py:Class, module:Class or module:Id-v0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(maze_file, name, message):
    assert message in refused(name)


def test_errors_in_a_users_file_name_their_type_and_line(maze_file):
    maze_file.write_text("x = 1\nx.nothing\n")
    message = refused("maze.py:Maze")
    assert "AttributeError" in message
    assert "maze.py:2)" in message
    maze_file.write_text("def broken(:\n")
    assert "SyntaxError" in refused("maze.py:Maze")
    maze_file.write_text("import a_package_that_is_not_there\n")
    assert "No module named 'a_package_that_is_not_there'" in refused("maze.py:Maze")


def test_a_class_of_the_old_package_is_told_from_one_of_gymnasium(maze_file):
    maze_file.write_text("class Env: pass\nEnv.__module__ = 'gym.core'\nclass Old(Env): pass\n")
    assert "old package gym" in refused("maze.py:Old")


def test_module_and_id_or_class(maze_module):
    assert resolve("maze_package:MazeOfTests-v3").name == "maze_package:MazeOfTests-v3"
    assert resolve("maze_package:mazeoftests").name == "maze_package:MazeOfTests-v3"
    assert make_env("maze_package:MazeOfTests-v3").spec.max_episode_steps == 9
    assert make_env("maze_package:Maze").spec is None
    assert "did you mean MazeOfTests-v3?" in refused("maze_package:MazeOfTest-v3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnasiun:CartPole-v1", "env module 'gymnasiun' was not found; did you mean gymnasium"),
        ("gymnasium.wrapers:X", "'gymnasium.wrapers' was not found; did you mean gymnasium.wrap"),
        ("math.nothing:X", "env module 'math.nothing' was not found; is it installed"),
        ("qqqqqqqqqq:X", "env module 'qqqqqqqqqq' was not found; is it installed"),
    ],
)
def test_a_missing_module_is_answered_with_the_nearest(name, message):
    assert message in refused(name)


def test_a_module_that_lacks_a_package_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_a_module.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    message = refused("half_a_module:Maze")
    assert message.startswith("env module half_a_module could not be imported: ModuleNotFoundError")
    assert "half_a_module.py:1)" in message


def test_options_are_checked_by_name():
    env = make_env("FrozenLake", {"is_slippery": False, "max_episode_steps": 3})
    assert env.spec.kwargs["is_slippery"] is False
    assert env.spec.max_episode_steps == 3
    message = refused("FrozenLake", {"is_slipery": False})
    assert "env FrozenLake-v1 has no option 'is_slipery'; did you mean is_slippery?" in message


def test_a_class_gets_a_time_limit_and_a_failing_constructor_one_line(maze_file):
    env = make_env("maze.py:Maze", {"max_episode_steps": 2})
    env.reset()
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    maze_file.write_text(MAZE.format(actions=2).replace("self.slip = slip", "1 / slip"))
    assert "maze.py:Maze could not be made: ZeroDivisionError" in refused("maze.py:Maze")


def test_names_that_run_code_are_told_apart_without_running_it(tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('was run')\n")
    assert runs_code(f"{trap}:Maze")
    assert runs_code("some_module:Maze-v0")
    assert not runs_code("CartPole")
    assert not runs_code("rlkit/GridWorld-v0")
    assert short_name(f"{trap}:Maze") == "Maze"


def test_short_names_fit_a_folder():
    assert short_name("cartpole") == "CartPole-v1"
    assert short_name("gridworld") == "GridWorld-v0"
    assert short_name("some_module:space/Maze-v0") == "Maze-v0"


def test_the_list_holds_what_can_be_named():
    listed = {env.name: env for env in list_envs()}
    assert listed["gridworld"].needs is None
    assert listed["CartPole"].id == "CartPole-v1"
    assert "GymV21Environment" not in listed
    for env in listed.values():
        if env.needs is None:
            assert resolve(env.name).name == env.id
            make_env(env.name).close()
    assert (listed["LunarLander"].needs is None) == (importlib.util.find_spec("Box2D") is not None)
