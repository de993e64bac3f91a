"""Naive2 against a direct transcription of its definition, and what it must do by nature."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.kernels.naive2 import naive2


def by_definition(series: list[float], horizon: int, season: int) -> list[float]:
    """One series, step by step, as the competition's benchmark code has it."""
    n, mean = len(series), sum(series) / len(series)
    power = sum((x - mean) ** 2 for x in series)

    def correlation(lag: int) -> float:
        return sum((series[i] - mean) * (series[i - lag] - mean) for i in range(lag, n)) / power

    limit = 1.645 / math.sqrt(n) * math.sqrt(1 + 2 * sum(correlation(lag) ** 2 for lag in range(1, season)))
    if n < 3 * season or not abs(correlation(season)) > limit:
        return [series[-1]] * horizon
    relative: dict[int, list[float]] = {phase: [] for phase in range(season)}
    half = season // 2
    for i in range(half, n - half):
        if season % 2:
            trend = sum(series[i - half : i + half + 1]) / season
        else:
            trend = (sum(series[i - half + 1 : i + half]) + (series[i - half] + series[i + half]) / 2) / season
        relative[i % season].append(series[i] / trend)
    index = [sum(relative[phase]) / len(relative[phase]) for phase in range(season)]
    level = sum(index) / season
    return [series[-1] / index[(n - 1) % season] * index[(n + step) % season] for step in range(horizon) if level]


@pytest.mark.parametrize("season", [4, 7, 24])
def test_against_its_definition(season: int) -> None:
    rng = np.random.default_rng(season)
    steps = np.arange(5 * season + 3)
    swing = 50 + 10 * np.sin(2 * np.pi * steps / season) + rng.normal(size=len(steps))
    noise = 50 + 10 * rng.normal(size=len(steps))
    series = np.abs(np.stack([swing, noise, swing * np.exp(steps / 80), noise + steps]))
    got = naive2(series, 2 * season + 1, season)
    for row, one in zip(got, series.tolist(), strict=True):
        np.testing.assert_allclose(row, by_definition(one, 2 * season + 1, season), rtol=1e-9)
    assert len(set(got[0].round(6).tolist())) > 1  # the first has a season
    assert len(set(got[1].tolist())) == 1  # and the second none


def test_what_cannot_have_a_season_is_repeated() -> None:
    swing = 5 * np.sin(2 * np.pi * np.arange(60) / 12)[None]
    assert naive2(swing, 3, 12).tolist() == [[swing[0, -1]] * 3]  # has values below 0
    assert naive2(swing + 10, 3, 1).tolist() == [[swing[0, -1] + 10] * 3]
    assert naive2(swing[:, :35] + 10, 2, 12).tolist() == [[swing[0, 34] + 10] * 2]  # shorter than three seasons
    assert naive2(np.full((1, 60), 3.0), 2, 12).tolist() == [[3.0, 3.0]]
