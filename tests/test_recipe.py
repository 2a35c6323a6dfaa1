"""Recipes: what they refuse, and how one source feeds options, JSON and checks."""

import json
from dataclasses import dataclass, fields

import pytest

from rlkit.errors import UsageError
from rlkit.recipe import Option, Recipe, option, options, read_options
from rlkit.registry import AGENTS, load
from rlkit.schedule import Schedule, schedule

NAN = float("nan")


@dataclass(frozen=True)
class Sample(Recipe):
    steps: int = option(100, "steps", low=1)
    envs: int = option(2, "environments", low=1, high=8)
    gamma: float = option(0.99, "discount", low=0, high=1)
    rate: float = option(1e-3, "learning rate", above=0)
    double: bool = option(True, "double")
    hidden: tuple[int, ...] = option((64, 64), "widths", low=1)
    activation: str = option("relu", "activation", choices=("relu", "tanh"))


def recipe_of(agent):
    return load(AGENTS[agent].target).recipe_type


SCHEDULE = "a number or START:END[:cosine][@SHARE OF THE RUN]"

FAULTS = [
    ("a2c", "gamma", 1.5, "a finite number >= 0 and <= 1"),
    ("a2c", "gamma", -1, "a finite number >= 0 and <= 1"),
    ("a2c", "gae_lambda", 7, "a finite number >= 0 and <= 1"),
    ("a2c", "max_grad_norm", -1, "a finite number > 0"),
    ("a2c", "n_steps", 0, "a whole number >= 1"),
    ("a2c", "learning_rate", -1, f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", NAN, f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", float("inf"), f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", 0, f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:-1e-9", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:nan", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "fast", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:0:square", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:0:cosine:0", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3@0.5", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:0@0", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", "1e-3:0@1.5", f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", Schedule(1e-3, 0, "square"), f"{SCHEDULE} > 0"),
    ("a2c", "learning_rate", True, f"{SCHEDULE} > 0"),
    ("a2c", "entropy_cost", -0.1, f"{SCHEDULE} >= 0"),
    ("a2c", "value_cost", NAN, "a finite number >= 0"),
    ("a2c", "optimizer", "lion", "sgd or momentum or rmsprop or adam or adamw"),
    ("a2c", "steps", -5, "a whole number >= 1"),
    ("a2c", "steps", 1.5, "a whole number >= 1"),
    ("a2c", "envs", 0, "a whole number >= 1 and <= 65536"),
    ("a2c", "hidden", (64, 0), "whole numbers separated by commas, each >= 1 and <= 16384"),
    ("a2c", "normalize_advantage", 1, "true or false"),
    ("ppo", "clip", 0, f"{SCHEDULE} > 0"),
    ("ppo", "clip", "0.2:-0.1", f"{SCHEDULE} > 0"),
    ("ppo", "epochs", 0, "a whole number >= 1"),
    ("ppo", "minibatch_size", 0, "a whole number >= 1"),
    ("ppo", "target_kl", -1, "a finite number >= 0"),
    ("ppo", "value_clip", NAN, "a finite number >= 0"),
    ("dqn", "exploration", 3, f"{SCHEDULE} >= 0 and <= 1"),
    ("dqn", "exploration", "1:3", f"{SCHEDULE} >= 0 and <= 1"),
    ("dqn", "exploration", "1:0.1@0", f"{SCHEDULE} >= 0 and <= 1"),
    ("dqn", "buffer_size", 0, "a whole number >= 1"),
    ("dqn", "batch_size", 0, "a whole number >= 1"),
    ("dqn", "target_interval", 0, "a whole number >= 1"),
    ("dqn", "train_every", 0, "a whole number >= 1"),
    ("dqn", "gradient_steps", 0, "a whole number >= 1"),
    ("dqn", "n_step", 0, "a whole number >= 1"),
    ("dqn", "learning_starts", -1, "a whole number >= 0"),
    ("dqn", "optimizer_eps", 0.0, "a finite number > 0"),
    ("dqn", "max_grad_norm", 0, "a finite number > 0"),
]


@pytest.mark.parametrize(("agent", "name", "value", "allowed"), FAULTS)
def test_what_makes_no_sense_is_refused(agent, name, value, allowed):
    flag = "--" + name.replace("_", "-")
    expected = f"{name} ({flag}) is {value!r}; allowed: {allowed}"
    for attempt in (
        lambda: recipe_of(agent)(**{name: value}),
        lambda: recipe_of(agent)().but({name: value}),
    ):
        with pytest.raises(UsageError) as refused:
            attempt()
        assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", True),
        ("steps", 7.0),
        ("steps", "7"),
        ("steps", None),
        ("gamma", True),
        ("gamma", "0.9"),
        ("double", "true"),
        ("hidden", 64),
        ("hidden", (True,)),
        ("hidden", (64.0,)),
        ("hidden", "64"),
        ("activation", 3),
        ("activation", "Relu"),
    ],
)
def test_other_types_are_refused(name, value):
    with pytest.raises(UsageError, match=rf"^{name} \(--{name}\) is .*; allowed: "):
        Sample(**{name: value})


def test_bounds_are_allowed_and_exclusive_ones_are_not():
    assert Sample(gamma=0, envs=8, steps=1).gamma == 0.0
    assert Sample(gamma=1).gamma == 1.0
    with pytest.raises(UsageError, match=r"allowed: a finite number > 0$"):
        Sample(rate=0.0)


def test_values_take_the_type_of_their_field():
    recipe = Sample(gamma=1, hidden=[32, 16])
    assert (type(recipe.gamma), recipe.gamma) == (float, 1.0)
    assert recipe.hidden == (32, 16)


def test_changes_leave_the_rest():
    tuned = Sample(gamma=0.5, rate=0.1)
    changed = tuned.but({"rate": 0.2, "hidden": [8]})
    assert changed == Sample(gamma=0.5, rate=0.2, hidden=(8,))
    assert tuned.rate == 0.1
    assert tuned.but({}) == tuned


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown option 'gama'; did you mean gamma"):
        Sample().but({"gama": 0.5})
    with pytest.raises(
        UsageError, match="unknown option 'learning-rate'; did you mean learning_rate"
    ):
        recipe_of("a2c")().but({"learning-rate": 0.5})
    with pytest.raises(UsageError, match="unknown option 'zzz'; known: activation, double"):
        Sample().but({"zzz": 1})


@pytest.mark.parametrize("agent", AGENTS)
def test_options_read_from_the_source_are_those_of_the_class(agent):
    read = read_options(AGENTS[agent].target)
    assert list(read) == list(options(recipe_of(agent)))
    assert [about.name for about in read] == [field.name for field in fields(recipe_of(agent))]


@pytest.mark.parametrize("agent", AGENTS)
def test_every_option_has_help_a_range_and_a_default_within_it(agent):
    for about in options(recipe_of(agent)):
        assert isinstance(about, Option)
        assert about.help
        value = about.check(about.default)
        assert value == (schedule(about.default) if about.type == "Schedule" else about.default)
        bounded = about.choices or about.type == "bool" or {about.low, about.above} != {None}
        assert bounded, f"{about.name} allows anything"


@pytest.mark.parametrize("agent", AGENTS)
def test_json_and_back(agent):
    agent_type = load(AGENTS[agent].target)
    for recipe in [
        agent_type.recipe_type(),
        *(tuned.recipe for tuned in agent_type.recipes.values()),
    ]:
        text = json.dumps(recipe.to_json(), allow_nan=False)
        assert json.loads(text) == recipe.to_json()
        assert agent_type.recipe_type().but(json.loads(text)) == recipe
        assert list(json.loads(text)) == [field.name for field in fields(recipe)]


def test_recipes_can_not_be_changed_in_place():
    with pytest.raises(AttributeError):
        Sample().gamma = 2.0
