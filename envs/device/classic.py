"""Gymnasium's classic control on a device: CartPole, Acrobot, MountainCar and Pendulum.

The equations and constants are those of `rlkit.envs.dynamics`, which equal
`gymnasium.envs.classic_control`'s; there too the sources are named. States are float64 and
observations float32, as Gymnasium's. Results differ from it in the last bits: a device has its own
sine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlkit.envs import dynamics as c

ALL = slice(None)
POSITIONS = slice(0, None, 2)  # of the cart's x, ẋ, θ, θ̇


def column(values: Sequence[float], device: torch.device) -> Tensor:
    """(S, 1) float64: a number for each variable of a state."""
    return torch.tensor(values, dtype=torch.float64, device=device).unsqueeze(1)


class UniformStart:
    """States drawn uniformly from a box with these lowest and highest corners."""

    def __init__(self, low: Sequence[float], high: Sequence[float], device: torch.device) -> None:
        self._low = column(low, device)
        self._span = column([b - a for a, b in zip(low, high, strict=True)], device)

    def __call__(self, u: Tensor) -> Tensor:
        return torch.addcmul(self._low, self._span, u)


class CartPole:
    """A pole on a cart; `seen` are the variables that are observed of x, ẋ, θ, θ̇."""

    draws = 4

    def __init__(self, sutton_barto_reward: bool, seen: slice, device: torch.device) -> None:
        self.start = UniformStart([-0.05] * 4, [0.05] * 4, device)
        self._seen = seen
        self._forces = torch.tensor([-c.FORCE, c.FORCE], dtype=torch.float64, device=device)
        self._limits = column([c.X_LIMIT, c.THETA_LIMIT], device)
        standing, fallen = (0.0, -1.0) if sutton_barto_reward else (1.0, 1.0)
        self._standing = torch.tensor(standing, dtype=torch.float32, device=device)
        self._fallen = torch.tensor(fallen, dtype=torch.float32, device=device)

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, x_dot, theta, theta_dot = state
        sin, cos = theta.sin(), theta.cos()
        force = self._forces[action]
        temp = torch.addcmul(force, theta_dot * theta_dot, sin, value=c.MASS_LENGTH) / c.MASS
        theta_acc = (c.GRAVITY * sin - cos * temp) / (
            c.LENGTH * (4.0 / 3.0 - c.MASS_POLE / c.MASS * (cos * cos))
        )
        x_acc = torch.addcmul(temp, theta_acc, cos, value=-c.MASS_LENGTH / c.MASS)
        slope = torch.stack((x_dot, x_acc, theta_dot, theta_acc))
        state = torch.add(state, slope, alpha=c.TAU)
        fell = (state[POSITIONS].abs() > self._limits).any(0)
        return state, torch.where(fell, self._fallen, self._standing), fell

    def observe(self, state: Tensor) -> Tensor:
        return state[self._seen].T

    def mask(self, state: Tensor) -> None:
        return None


class MountainCar:
    """A car in a valley, which has to pass the goal with `goal_velocity` or more."""

    draws = 1

    def __init__(self, goal_velocity: float, device: torch.device) -> None:
        self.start = UniformStart([-0.6, 0.0], [-0.4, 0.0], device)
        self._goal_velocity = goal_velocity
        self._reward = torch.tensor(-1.0, dtype=torch.float32, device=device)

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        position, velocity = state
        push = (action - 1).to(state.dtype) * c.PUSH
        velocity = velocity + torch.add(push, torch.cos(3 * position), alpha=-c.SLOPE)
        velocity = velocity.clamp(-c.CAR_SPEED, c.CAR_SPEED)
        position = (position + velocity).clamp(c.LEFT, c.RIGHT)
        # At the wall the car stands still; its velocity there is never above 0.
        velocity = velocity * (position > c.LEFT)
        arrived = (position >= c.GOAL) & (velocity >= self._goal_velocity)
        return torch.stack((position, velocity)), self._reward.expand_as(arrived), arrived

    def observe(self, state: Tensor) -> Tensor:
        return state.T

    def mask(self, state: Tensor) -> None:
        return None


class Pendulum:
    """A pendulum to be swung up against gravity `g`. Actions: torques in ±2, (N, 1) float32."""

    draws = 2

    def __init__(self, g: float, device: torch.device) -> None:
        self.start = UniformStart([-math.pi, -1.0], [math.pi, 1.0], device)
        self._gravity = 3 * g / 2.0
        self._never = torch.tensor(False, device=device)

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, speed = state
        torque = action.squeeze(-1)
        from_top = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        cost = torch.addcmul(0.001 * (torque * torque), speed, speed, value=0.1)
        reward = torch.addcmul(-cost, from_top, from_top, value=-1).float()
        push = torch.add(3.0 * torque, angle.sin(), alpha=self._gravity)
        speed = torch.add(speed, push, alpha=c.SWING_DT).clamp(-c.SWING_SPEED, c.SWING_SPEED)
        angle = torch.add(angle, speed, alpha=c.SWING_DT)
        return torch.stack((angle, speed)), reward, self._never.expand_as(angle)

    def observe(self, state: Tensor) -> Tensor:
        angle, speed = state
        return torch.stack((angle.cos(), angle.sin(), speed), dim=-1)

    def mask(self, state: Tensor) -> None:
        return None


# Acrobot's terms that depend on the constants alone.
_COUPLING = c.M * c.L * c.LC
_D1 = c.M * c.LC**2 + c.M * (c.L**2 + c.LC**2) + 2 * c.INERTIA
_D2 = c.M * c.LC**2 + c.INERTIA
_WEIGHT_1, _WEIGHT_2 = (c.M * c.LC + c.M * c.L) * c.GRAVITY, c.M * c.LC * c.GRAVITY


class Acrobot:
    """Two links that swing their end above the bar; a state is two angles and their velocities."""

    draws = 4

    def __init__(self, device: torch.device) -> None:
        self.start = UniformStart([-0.1] * 4, [0.1] * 4, device)
        self._fastest = column([c.SPEED_1, c.SPEED_2], device)
        self._slowest = -self._fastest

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torque = (action - 1).to(state.dtype)
        # the classical Runge-Kutta method
        k1 = _slope(state, torque)
        k2 = _slope(torch.add(state, k1, alpha=c.DT / 2), torque)
        k3 = _slope(torch.add(state, k2, alpha=c.DT / 2), torque)
        k4 = _slope(torch.add(state, k3, alpha=c.DT), torque)
        state = torch.add(state, k1 + 2 * (k2 + k3) + k4, alpha=c.DT / 6.0)
        angles, speeds = state[:2], state[2:]
        angles = torch.sub(angles, torch.round(angles / (2 * math.pi)), alpha=2 * math.pi)
        speeds = torch.clamp(speeds, self._slowest, self._fastest)
        high = angles[0].cos() + angles.sum(0).cos() < -1.0
        return torch.cat((angles, speeds)), high.float() - 1.0, high

    def observe(self, state: Tensor) -> Tensor:
        (cos_1, cos_2), (sin_1, sin_2) = state[:2].cos(), state[:2].sin()
        return torch.stack((cos_1, sin_1, cos_2, sin_2, state[2], state[3]), dim=-1)

    def mask(self, state: Tensor) -> None:
        return None


def _slope(state: Tensor, torque: Tensor) -> Tensor:
    """Acrobot's velocities and accelerations (Sutton and Barto, Reinforcement Learning, 11.3)."""
    theta_1, theta_2, w1, w2 = state
    cos, swing = theta_2.cos(), _COUPLING * theta_2.sin()
    d1, d2 = 2 * _COUPLING * cos + _D1, _COUPLING * cos + _D2
    phi_2 = _WEIGHT_2 * torch.sin(theta_1 + theta_2)  # sin x = cos(x − π/2)
    phi_1 = torch.add(phi_2, theta_1.sin(), alpha=_WEIGHT_1)
    phi_1 = torch.addcmul(phi_1, swing * w2, torch.add(w2, w1, alpha=2), value=-1)
    ratio = d2 / d1
    push = torch.addcmul(torque - phi_2, ratio, phi_1)
    acc_2 = torch.addcmul(push, swing * w1, w1, value=-1) / (_D2 - d2 * ratio)
    acc_1 = -torch.addcmul(phi_1, d2, acc_2) / d1
    return torch.stack((w1, w2, acc_1, acc_2))
