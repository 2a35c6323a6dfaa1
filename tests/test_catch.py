"""Catch against its definition, played cell by cell."""

import numpy as np
import pytest

from rlkit.envs.make import make_env, make_envs


def board(rows, columns, scale, ball, row, paddle):
    picture = [[0] * (columns * scale) for _ in range(rows * scale)]
    for cell_row, cell_column in ((row, ball), (rows - 1, paddle)):
        for y in range(scale):
            for x in range(scale):
                picture[cell_row * scale + y][cell_column * scale + x] = 255
    return picture


@pytest.mark.parametrize(("rows", "columns", "scale"), [(10, 5, 1), (3, 4, 2), (6, 1, 1)])
def test_every_frame_and_reward_is_the_definitions(rows, columns, scale):
    env = make_env("catch", {"rows": rows, "columns": columns, "scale": scale})
    rng = np.random.default_rng(0)
    seen_columns = set()
    for episode in range(40):
        obs, _ = env.reset(seed=episode)
        (ball,) = np.flatnonzero(obs[0, ::scale, 0])
        seen_columns.add(int(ball))
        paddle = columns // 2
        assert obs[..., 0].tolist() == board(rows, columns, scale, ball, 0, paddle)
        for row in range(1, rows):
            action = int(rng.integers(3))
            paddle = min(max(paddle + (-1, 0, 1)[action], 0), columns - 1)
            obs, reward, terminated, truncated, _ = env.step(action)
            assert obs[..., 0].tolist() == board(rows, columns, scale, ball, row, paddle)
            assert (terminated, truncated) == (row == rows - 1, False)
            assert reward == (0 if not terminated else 1 if ball == paddle else -1)
    assert seen_columns == set(range(columns))


def test_following_the_ball_always_wins_and_not_looking_gets_its_share():
    envs = make_envs("catch", 100, 0)
    obs = envs.reset()
    follows, waits = [], []
    for _ in range(100):
        ball = obs[:, :-1].max(axis=(1, 3)).argmax(-1)
        paddle = obs[:, -1, :, 0].argmax(-1)
        step = envs.step(np.sign(ball - paddle) + 1)
        follows += step.reward[step.terminated].tolist()
        obs = step.next_obs
    assert set(follows) == {1.0}
    envs.reset()
    for _ in range(400):
        step = envs.step(np.ones(100, dtype=int))
        waits += step.reward[step.terminated].tolist()
    # 4000 episodes of ±1 with mean -0.6: a standard error of 0.0126
    assert abs(np.mean(waits) + 0.6) < 0.06
