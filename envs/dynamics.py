"""The equations of motion of the classic control environments, compiled: N environments a step.

The functions are plain Python until `load` compiles them. Each takes the same arrays:

    actions  (N,) int64, or (N, 1) float32
    states   (1 + S + scratch, N) float64: the steps taken in the episode, or `ENDED` between its
             end and the next one's begin; the state variables; for the cart two rows of scratch
    obs      (N, O) float32; reward (N,) float32 or float64; flags (2, N) bool, terminated and
             truncated: all written
    starts   (F, K) float64: for the K environments that begin an episode in this step (those that
             are at `ENDED`), in their order, the state variables, and for Acrobot what it observes
    params   (3,) float64: the time limit, the environment's own option, and the exponent 2

and returns how many episodes ended in this step, or -1 - i where the action of environment i is
outside its space, in which case nothing was written. Where an episode begins, the action is not
looked at, the reward is 0 and the flags are False.

Results equal Gymnasium's to the last bit: the operations, their order and their precision are
those of `gymnasium.envs.classic_control`, which names the sources of the models. Where Gymnasium
raises a NumPy scalar to the power 2, C's `pow` computes it, which now and then differs from x·x in
the last bit. Compilers make x·x of a constant exponent, so here it is a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlkit.compiled import compiled

Kernel: TypeAlias = Callable[..., int]
Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Floats32: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

ENDED = -1.0

GRAVITY = 9.8
# The cart and its pole, of which LENGTH is the half.
MASS_POLE, MASS, LENGTH, FORCE, TAU = 0.1, 0.1 + 1.0, 0.5, 10.0, 0.02
MASS_LENGTH = MASS_POLE * LENGTH
X_LIMIT, THETA_LIMIT = 2.4, 12 * 2 * math.pi / 360
# The car on its hill.
LEFT, RIGHT, GOAL, CAR_SPEED, PUSH, SLOPE = -1.2, 0.6, 0.5, 0.07, 0.001, 0.0025
# The pendulum.
TORQUE, SWING_SPEED, SWING_DT = 2.0, 8.0, 0.05
# Acrobot's two links, which are alike; LC is where their centre of mass lies.
M, L, LC, INERTIA, DT = 1.0, 1.0, 0.5, 1.0, 0.2
SPEED_1, SPEED_2 = 4 * math.pi, 9 * math.pi


@cache
def load(kernel: Kernel, action: str, reward: str) -> Kernel:
    """`kernel` compiled for these dtypes (numba's names)."""
    _make_callable_from_kernels()
    arrays = f"{action}, f8[:,::1], f4[:,::1], {reward}[::1], b1[:,::1], f8[:,::1], f8[::1]"
    return compiled(kernel, f"i8({arrays})")


@cache
def _make_callable_from_kernels() -> None:
    from numba.extending import register_jitable

    for function in (_swing, _wrapped, _link_accelerations):
        register_jitable(function)


def cart_pole(
    actions: Ints,
    states: Floats,
    obs: Floats32,
    reward: Floats32,
    flags: Bools,
    starts: Floats,
    params: Floats,
) -> int:
    """Option: 1 for Sutton and Barto's reward, -1 at a fall and else 0, instead of 1 a step."""
    n = len(actions)
    steps, x, x_dot, theta, theta_dot = states[0], states[1], states[2], states[3], states[4]
    sines, cosines = states[5], states[6]
    for i in range(n):
        if steps[i] != ENDED and (actions[i] < 0 or actions[i] > 1):
            return -1 - i
    # In a loop of their own, the calls keep no other line from being vectorised.
    for i in range(n):
        sines[i], cosines[i] = math.sin(theta[i]), math.cos(theta[i])
    for i in range(n):
        force = FORCE if actions[i] == 1 else -FORCE
        sin, cos, speed = sines[i], cosines[i], theta_dot[i]
        temp = (force + MASS_LENGTH * (speed * speed) * sin) / MASS
        theta_acc = (GRAVITY * sin - cos * temp) / (
            LENGTH * (4.0 / 3.0 - MASS_POLE * (cos * cos) / MASS)
        )
        x_acc = temp - MASS_LENGTH * theta_acc * cos / MASS
        x[i] = x[i] + TAU * x_dot[i]
        x_dot[i] = x_dot[i] + TAU * x_acc
        theta[i] = theta[i] + TAU * speed
        theta_dot[i] = speed + TAU * theta_acc
    ended = begun = 0
    for i in range(n):
        if steps[i] == ENDED:
            for j in range(4):
                states[1 + j, i] = starts[j, begun]
            steps[i], reward[i], flags[0, i], flags[1, i] = 0.0, 0.0, False, False
            begun += 1
        else:
            steps[i] += 1.0
            fell = abs(x[i]) > X_LIMIT or abs(theta[i]) > THETA_LIMIT
            late = steps[i] >= params[0]
            flags[0, i], flags[1, i] = fell, late
            # Gymnasium negates zeros and ones.
            reward[i] = 1.0 if params[1] == 0.0 else (-1.0 if fell else -0.0)
            if fell or late:
                steps[i] = ENDED
                ended += 1
        obs[i, 0], obs[i, 1], obs[i, 2], obs[i, 3] = x[i], x_dot[i], theta[i], theta_dot[i]
    return ended


def mountain_car(
    actions: Ints,
    states: Floats,
    obs: Floats32,
    reward: Floats,
    flags: Bools,
    starts: Floats,
    params: Floats,
) -> int:
    """Option: the least velocity with which the car has to pass the goal."""
    steps, positions, velocities = states[0], states[1], states[2]
    for i in range(len(actions)):
        if steps[i] != ENDED and (actions[i] < 0 or actions[i] > 2):
            return -1 - i
    ended = begun = 0
    for i in range(len(actions)):
        if steps[i] == ENDED:
            positions[i], velocities[i] = starts[0, begun], starts[1, begun]
            steps[i], reward[i], flags[0, i], flags[1, i] = 0.0, 0.0, False, False
            begun += 1
        else:
            position, velocity = positions[i], velocities[i]
            velocity += (actions[i] - 1) * PUSH + math.cos(3 * position) * -SLOPE
            velocity = min(max(velocity, -CAR_SPEED), CAR_SPEED)
            position = min(max(position + velocity, LEFT), RIGHT)
            if position == LEFT and velocity < 0.0:
                velocity = 0.0
            positions[i], velocities[i], steps[i] = position, velocity, steps[i] + 1.0
            arrived = position >= GOAL and velocity >= params[1]
            late = steps[i] >= params[0]
            reward[i], flags[0, i], flags[1, i] = -1.0, arrived, late
            if arrived or late:
                steps[i] = ENDED
                ended += 1
        obs[i, 0], obs[i, 1] = positions[i], velocities[i]
    return ended


def pendulum(
    actions: Floats32,
    states: Floats,
    obs: Floats32,
    reward: Floats,
    flags: Bools,
    starts: Floats,
    params: Floats,
) -> int:
    """Option: 3/2 of the acceleration of gravity. Torques are float32, and so is what they cost."""
    steps, angles, speeds, square = states[0], states[1], states[2], params[2]
    for i in range(len(actions)):
        if steps[i] != ENDED and math.isnan(actions[i, 0]):
            return -1 - i
    ended = begun = 0
    for i in range(len(actions)):
        if steps[i] == ENDED:
            angles[i], speeds[i] = starts[0, begun], starts[1, begun]
            steps[i], reward[i], flags[0, i], flags[1, i] = 0.0, 0.0, False, False
            begun += 1
        else:
            angle, speed = angles[i], speeds[i]
            torque = min(max(actions[i, 0], np.float32(-TORQUE)), np.float32(TORQUE))
            from_top = (angle + math.pi) % (2 * math.pi) - math.pi
            effort = np.float32(0.001) * torque ** np.float32(square)
            reward[i] = -(from_top**square + 0.1 * speed**square + effort)
            speed += (params[1] * math.sin(angle) + np.float32(3.0) * torque) * SWING_DT
            speed = min(max(speed, -SWING_SPEED), SWING_SPEED)
            angles[i], speeds[i], steps[i] = angle + speed * SWING_DT, speed, steps[i] + 1.0
            late = steps[i] >= params[0]
            flags[0, i], flags[1, i] = False, late
            if late:
                steps[i] = ENDED
                ended += 1
        obs[i, 0], obs[i, 1], obs[i, 2] = math.cos(angles[i]), math.sin(angles[i]), speeds[i]
    return ended


def acrobot(
    actions: Ints,
    states: Floats,
    obs: Floats32,
    reward: Floats,
    flags: Bools,
    starts: Floats,
    params: Floats,
) -> int:
    """No option. The first observation of an episode has sines and cosines taken in float32."""
    steps = states[0]
    for i in range(len(actions)):
        if steps[i] != ENDED and (actions[i] < 0 or actions[i] > 2):
            return -1 - i
    ended = begun = 0
    for i in range(len(actions)):
        if steps[i] == ENDED:
            for j in range(4):
                states[1 + j, i] = starts[j, begun]
                obs[i, j] = starts[4 + j, begun]
            steps[i], reward[i], flags[0, i], flags[1, i] = 0.0, 0.0, False, False
            begun += 1
        else:
            _swing(states[1:5, i], actions[i] - 1.0, params[2])
            angle_1, angle_2 = states[1, i], states[2, i]
            obs[i, 0], obs[i, 1] = math.cos(angle_1), math.sin(angle_1)
            obs[i, 2], obs[i, 3] = math.cos(angle_2), math.sin(angle_2)
            steps[i] += 1.0
            high = -math.cos(angle_1) - math.cos(angle_2 + angle_1) > 1.0
            late = steps[i] >= params[0]
            reward[i], flags[0, i], flags[1, i] = 0.0 if high else -1.0, high, late
            if high or late:
                steps[i] = ENDED
                ended += 1
        obs[i, 4], obs[i, 5] = states[3, i], states[4, i]
    return ended


def _swing(state: Floats, torque: float, square: float) -> None:
    """One step of Acrobot's `state` (4,) by the classical Runge-Kutta method, in place."""
    a1, a2, v1, v2 = state[0], state[1], state[2], state[3]
    x1, x2, w1, w2 = a1, a2, v1, v2
    sum_1 = sum_2 = sum_3 = sum_4 = 0.0
    for stage in range(4):
        acc_1, acc_2 = _link_accelerations(x1, x2, w1, w2, torque, square)
        weight = 1.0 if stage in (0, 3) else 2.0
        sum_1, sum_2 = sum_1 + weight * w1, sum_2 + weight * w2
        sum_3, sum_4 = sum_3 + weight * acc_1, sum_4 + weight * acc_2
        ahead = DT if stage == 2 else DT / 2
        x1, x2, w1, w2 = a1 + ahead * w1, a2 + ahead * w2, v1 + ahead * acc_1, v2 + ahead * acc_2
    sixth = DT / 6.0
    state[0], state[1] = _wrapped(a1 + sixth * sum_1), _wrapped(a2 + sixth * sum_2)
    state[2] = min(max(v1 + sixth * sum_3, -SPEED_1), SPEED_1)
    state[3] = min(max(v2 + sixth * sum_4, -SPEED_2), SPEED_2)


def _wrapped(angle: float) -> float:
    """`angle` in [-π, π]; by steps, as `%` rounds differently."""
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle < -math.pi:
        angle += 2 * math.pi
    return angle


def _link_accelerations(
    theta_1: float, theta_2: float, dtheta_1: float, dtheta_2: float, torque: float, square: float
) -> tuple[float, float]:
    """Acrobot's angular accelerations (Sutton and Barto, Reinforcement Learning, section 11.3)."""
    cos, sin = math.cos(theta_2), math.sin(theta_2)
    d1 = M * LC**2 + M * (L**2 + LC**2 + 2 * L * LC * cos) + INERTIA + INERTIA
    d2 = M * (LC**2 + L * LC * cos) + INERTIA
    phi_2 = M * LC * GRAVITY * math.cos(theta_1 + theta_2 - math.pi / 2.0)
    phi_1 = (
        -M * L * LC * dtheta_2**square * sin
        - 2 * M * L * LC * dtheta_2 * dtheta_1 * sin
        + (M * LC + M * L) * GRAVITY * math.cos(theta_1 - math.pi / 2)
        + phi_2
    )
    ddtheta_2 = (torque + d2 / d1 * phi_1 - M * L * LC * dtheta_1**square * sin - phi_2) / (
        M * LC**2 + INERTIA - d2**square / d1
    )
    return -(d2 * ddtheta_2 + phi_1) / d1, ddtheta_2
