"""The environments that `rlkit list envs` shows, and what each needs to be installed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rlkit.envs import atari
from rlkit.envs.names import newest, unversioned
from rlkit.envs.packages import ATARI, PACKAGES
from rlkit.registry import ENVS, MODELS, model_id


@dataclass(frozen=True)
class Family:
    """A family of Gymnasium's environments, the module it needs, and how pip is asked for that."""

    summary: str
    module: str = "gymnasium"
    install: str = "gymnasium"

    def installed(self) -> bool:
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None


# By the module of the entry point.
FAMILIES = {
    atari.ENTRY.partition(":")[0]: Family(ATARI.summary, ATARI.module, ATARI.install),
    **{
        package.entry.removesuffix("."): Family(package.summary, package.module, package.install)
        for package in PACKAGES
    },
    "gymnasium.envs.classic_control": Family("classic control"),
    "gymnasium.envs.toy_text": Family("finite states"),
    "gymnasium.envs.box2d": Family("Box2D physics", "Box2D", "swig 'gymnasium[box2d]'"),
    "gymnasium.envs.mujoco": Family("MuJoCo physics", "mujoco", "'gymnasium[mujoco]'"),
    "gymnasium.envs.phys2d": Family("classic control in JAX", "jax", "'gymnasium[jax]'"),
    "gymnasium.envs.tabular": Family("finite states in JAX", "jax", "'gymnasium[jax]'"),
}


@dataclass(frozen=True)
class ListedEnv:
    """A line of `rlkit list envs`: `needs` is what pip must install first, None if nothing."""

    name: str
    id: str
    summary: str
    needs: str | None


def family_of(spec: EnvSpec) -> Family | None:
    """The family that a registry entry belongs to, by its entry point."""
    if not isinstance(spec.entry_point, str):
        return None
    module = spec.entry_point.partition(":")[0]
    for prefix, family in FAMILIES.items():
        if module == prefix or module.startswith(f"{prefix}."):
            return family
    return None


def list_envs() -> list[ListedEnv]:
    """rlkit's own environments, then the newest version of each other one registered, by name.

    Of each package with environments by the dozen there is one. Entries that Gymnasium keeps only
    to refuse them are left out. Nothing is imported: whether an environment can be made is told by
    whether the module that its family needs is there.
    """
    listed = [
        ListedEnv(name, entry.id, entry.summary, None) for name, entry in sorted(ENVS.items())
    ]
    listed += [
        ListedEnv(name, model_id(name), entry.summary, None)
        for name, entry in sorted(MODELS.items())
    ]
    own = {each.id for each in listed}
    for package in PACKAGES:
        name = package.example.rpartition("-v")[0]
        needs = None if package.installed() else package.install
        listed.append(ListedEnv(name, package.example, package.summary, needs))
    names = {
        unversioned(spec)
        for spec in gym.registry.values()
        if spec.id not in own and not any(package.owns(spec) for package in PACKAGES)
    }
    for name in sorted(names, key=str.lower):
        spec = newest(name)
        if spec is None or not isinstance(spec.entry_point, str):
            continue
        family = family_of(spec)
        summary = spec.entry_point.partition(":")[0] if family is None else family.summary
        needs = None if family is None or family.installed() else family.install
        listed.append(ListedEnv(name, spec.id, summary, needs))
    return listed
