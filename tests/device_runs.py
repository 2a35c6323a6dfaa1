"""Agents that learn from scripted steps: on the host, and as on a device, wherever that is."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.agent import Setting
from rlkit.carry import mapped
from rlkit.device.engine import Engine
from rlkit.experience.step import FinalObs, Step

CPU = torch.device("cpu")
AHEAD = Engine(ahead=True)
VECTOR, FRAMES = spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (36, 36, 1), dtype=np.uint8)
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
N = 4


def agent_of(agent_type, recipe, device=CPU, engine=None, obs=VECTOR, action=DISCRETE, stack=1):
    """An agent whose weights begin the same wherever it is."""
    torch.manual_seed(0)
    device = torch.device(device)
    setting = Setting(
        obs,
        action,
        N,
        torch.device(device),
        0,
        stack,
        engine=Engine() if engine is None else engine,
    )
    # What moves to the meta device later leaves the networks' own references behind.
    with device if device.type == "meta" else nullcontext():
        agent = agent_type(setting, recipe)
    agent.memory.allocate()
    return agent


class Script:
    """Steps of N environments that end at random: with dead steps after it, or SAME_STEP."""

    def __init__(self, agent, ends=0.1, mode="next_step", masks=False, stack=1, zeros=False):
        self.obs_space, self.action_space = agent.setting.obs_space, agent.setting.action_space
        self.rng = np.random.default_rng(0)
        self.ends, self.mode, self.masks, self.stack = ends, mode, masks, stack
        self.reward = 0.0  # added to every one
        self.zeros = zeros  # what fills up a stack: else its first frame
        self.carry = agent.initial_carry(N)
        self.ended = np.zeros(N, dtype=bool)
        self.obs, self.mask = self._observed(None), self._mask()

    def restart(self):
        """All episodes break off."""
        self.ended[:] = True
        self.obs = self._observed(self.obs)
        self.ended[:] = False

    def _observed(self, before):
        shape = (N, *self.obs_space.shape)
        if self.obs_space.dtype == np.uint8:
            seen = self.rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            seen = self.rng.uniform(-1, 1, shape).astype(np.float32)
        if self.stack > 1:  # the newest frame is new; the others are those before it
            first = np.repeat(seen[:, -1:], self.stack, 1)
            if self.zeros:
                first[:, :-1] = 0
            if before is None:
                return first
            following = np.concatenate([before[:, 1:], seen[:, -1:]], 1)
            begins = self.ended.reshape(N, *[1] * len(self.obs_space.shape))
            return np.where(begins, first, following)
        return seen

    def _mask(self):
        if not self.masks:
            return None
        mask = self.rng.random((N, self.action_space.n)) < 0.7
        mask[:, 0] = True
        return mask

    def _action(self):
        if isinstance(self.action_space, spaces.Discrete):
            return self.rng.integers(self.action_space.n, size=N)
        return self.rng.uniform(-1, 1, (N, *self.action_space.shape)).astype(np.float32)

    def step(self):
        rng, valid, final = self.rng, np.ones(N, dtype=bool), None
        end = rng.random(N) < self.ends
        truncated = end & (rng.random(N) < 0.4)
        if self.mode == "next_step":
            valid = ~self.ended
            end, truncated = end & valid, truncated & valid
        next_obs, next_mask = self._observed(self.obs), self._mask()
        if self.mode == "same_step" and end.any():
            index = np.flatnonzero(end)
            final = FinalObs(index, self._observed(self.obs)[index])
        reward = np.where(valid, self.reward + rng.normal(size=N), 0).astype(np.float32)
        step = Step(
            self.obs,
            self._action(),
            reward,
            end & ~truncated,
            truncated,
            valid,
            next_obs,
            final,
            self.mask,
            next_mask,
            carry=self.carry,
        )
        if self.carry is not None:  # any carry serves: it is empty where an episode begins
            draw = torch.from_numpy(rng.uniform(0.5, 1, N).astype(np.float32))
            held = draw * torch.from_numpy(~step.begins)
            self.carry = mapped(
                lambda x: held.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1)).expand_as(x),
                self.carry,
            )
        self.ended = end if self.mode == "next_step" else np.zeros(N, dtype=bool)
        self.obs, self.mask = next_obs, next_mask
        return step


def on_device(step, device):
    """The step as environments on the device give it: in tensors."""

    def moved(x):
        return None if x is None else torch.from_numpy(np.ascontiguousarray(x)).to(device)

    names = ("obs", "action", "reward", "terminated", "truncated", "valid", "next_obs")
    columns = [moved(getattr(step, name)) for name in names]
    return Step(*columns, None, moved(step.mask), moved(step.next_mask), carry=step.carry)


def learn(agent, steps, script, tensors=False):
    """Train on scripted steps; the metrics of every update, as floats where they have values."""
    found = []
    for k in range(steps):
        agent.clock.progress = k / steps
        step = script.step()
        agent.memory.add(on_device(step, agent.setting.device) if tensors else step)
        for batch in agent.memory.batches():
            metrics = agent.update(batch)
            if agent.setting.device.type != "meta":
                metrics = {name: float(x) for name, x in metrics.items()}
            found.append(metrics)
    return found


def weights(agent):
    return torch.cat([p.detach().cpu().flatten() for p in agent.parameters()])


SYNCHRONISING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal",
    "unique",
    "_unique2",
    "repeat_interleave.Tensor",
    "bincount",
    "_to_copy",  # to another device, of which there is one here: counted where it copies to numpy
)


class Synchronisations(TorchDispatchMode):
    """Counts what would have the host wait for a device: values that it reads, shapes that depend
    on values."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        reads = name in SYNCHRONISING[:-1] or name.split(".")[0] in SYNCHRONISING[:-1]
        if name.startswith(("index.", "index_put")) and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        ):
            reads = name.startswith("index.") or args[2].numel() != 1
        if reads:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))
