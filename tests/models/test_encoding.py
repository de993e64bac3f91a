"""What a family sees of a window, and what becomes of what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.encoding import ANCHORS, Encoding, decode, encode, rising
from models.families import FAMILIES
from models.families.family import Family
from models.forecaster import build_forecaster
from models.scaling import Constants
from schemas.dataset import Moments, Statistics
from schemas.errors import ModelError, SpecError
from schemas.spec import Spec
from tests.models.conftest import easy_spec

FEATURES = [
    {"name": "sun", "role": "target"},
    {"name": "sky", "role": "past", "type": "category", "categories": ["clear", "cloudy"]},
    {"name": "wind", "role": "past"},
    {"name": "load", "role": "target"},
    {"name": "price", "role": "future", "lead": 6},
    {"name": "area", "role": "static"},
    {"name": "kind", "role": "static", "type": "category", "categories": ["inn", "shop"]},
    {"name": "time_of_day", "role": "future", "calendar": "time_of_day"},
]
SUN, SKY, WIND, LOAD, PRICE, AREA, KIND, TIME = range(8)
NUMERIC = {"sun": (3, 2), "wind": (5, 2), "load": (150, 50), "price": (30, 10), "area": (1000, 100)}
STATISTICS = Statistics(
    features={
        name: Moments(count=9, mean=mean, std=std, min=mean - std, max=mean + std)
        for name, (mean, std) in NUMERIC.items()
    },
    keys={},
)
BATCH, PAST, HORIZON = 4, 8, 6


def rich_spec(**model: Any) -> Spec:
    return easy_spec(stream={"features": FEATURES}, window={"past": PAST, "horizon": HORIZON}, model=model)


def rich_inputs() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)

    def of(name: str, *shape: int) -> NDArray[np.float64]:
        return rng.normal(*NUMERIC[name], shape)

    values = np.zeros((BATCH, PAST, len(FEATURES)), np.float32)
    for column, feature in enumerate(FEATURES):
        if feature["name"] in NUMERIC:
            values[..., column] = of(str(feature["name"]), BATCH, PAST)
    values[..., SKY] = rng.integers(0, 3, (BATCH, PAST))
    values[..., AREA] = of("area", BATCH, 1)
    values[..., KIND] = rng.integers(0, 3, (BATCH, 1))
    values[..., TIME] = rng.uniform(-0.5, 0.5, (BATCH, PAST))
    masked = rng.random(values.shape) < 0.2
    masked[..., [AREA, KIND, TIME]] = False
    masked[3, :, SUN] = True
    observed = ~masked & (rng.random(values.shape) < 0.9)
    static = values[:, -1, [AREA, KIND]].copy()
    static[2] = np.nan
    future = np.stack((of("price", BATCH, HORIZON), rng.uniform(-0.5, 0.5, (BATCH, HORIZON))), axis=-1)
    future[1, 2, 0] = np.nan
    return {
        "past_values": np.where(masked, np.nan, values).astype(np.float32),
        "past_observed": observed,
        "future_values": future.astype(np.float32),
        "static_values": static.astype(np.float32),
    }


def encoded(**model: Any) -> tuple[Encoding, dict[str, NDArray[Any]]]:
    spec, inputs = rich_spec(**model), rich_inputs()
    assert spec.model is not None
    return encode(spec, spec.model, Constants.of(spec, STATISTICS), inputs), inputs


def normal(inputs: dict[str, NDArray[Any]], column: int) -> NDArray[np.float64]:
    """(batch, past), 0 where masked."""
    mean, deviation = NUMERIC[str(FEATURES[column]["name"])]
    return np.nan_to_num((inputs["past_values"][..., column].astype(np.float64) - mean) / deviation)


def naive_anchor(name: str, values: NDArray[np.float64], observed: NDArray[np.bool_]) -> float:
    seen = [value for value, there in zip(values, observed, strict=True) if there]
    if name == "none" or not seen:
        return 0.0
    return float(seen[-1] if name == "last" else np.mean(seen))


def one_hot(values: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.stack([np.where(present, values == category, False) for category in range(3)], axis=-1).astype(float)


@pytest.mark.parametrize("anchor", sorted(ANCHORS))
@pytest.mark.parametrize("channels", ["together", "independent"])
def test_windows_against_plain_numpy(anchor: str, channels: str) -> None:
    encoding, inputs = encoded(anchor=anchor, channels=channels)
    values, observed = inputs["past_values"], inputs["past_observed"]
    present = np.isfinite(values)
    seen = present & observed
    moved = np.zeros((BATCH, PAST, 2))
    for row in range(BATCH):
        for place, column in enumerate((SUN, LOAD)):
            target = normal(inputs, column)[row]
            start = naive_anchor(anchor, target, seen[row, :, column])
            np.testing.assert_allclose(np.asarray(encoding.anchor)[row, place], start, rtol=1e-5, atol=1e-5)
            moved[row, :, place] = np.where(present[row, :, column], target - start, 0)
    angle = 2 * np.pi * values[..., TIME]
    beside = np.concatenate(
        (
            np.stack((normal(inputs, WIND), normal(inputs, PRICE)), axis=-1),
            one_hot(values[..., SKY], present[..., SKY]),
            seen[..., [SKY, WIND, PRICE]],
            np.stack((np.sin(angle), np.cos(angle)), axis=-1),
        ),
        axis=-1,
    )
    angle = 2 * np.pi * inputs["future_values"][..., 1]
    future = np.stack(
        (np.sin(angle), np.cos(angle), np.nan_to_num((inputs["future_values"][..., 0] - 30) / 10)), axis=-1
    )
    told = np.isfinite(inputs["static_values"])
    static = np.concatenate(
        (
            told,
            np.nan_to_num((inputs["static_values"][:, :1] - 1000) / 100),
            one_hot(inputs["static_values"][:, 1], told[:, 1]),
        ),
        axis=-1,
    )
    flags = seen[..., [SUN, LOAD]].astype(float)
    window = encoding.window
    if channels == "together":
        targets = np.stack((normal(inputs, SUN), normal(inputs, LOAD)), axis=-1)
        past, target = np.concatenate((targets, flags, beside), axis=-1), moved
        assert (window.width, window.channel) == (2, None)
    else:
        rows = [(row, place) for row in range(BATCH) for place in range(2)]
        past = np.stack([np.concatenate((moved[r, :, [p]].T, flags[r, :, [p]].T, beside[r]), axis=-1) for r, p in rows])
        target = np.stack([moved[r, :, [p]].T for r, p in rows])
        future, static = np.repeat(future, 2, axis=0), np.repeat(static, 2, axis=0)
        assert window.width == 1
        np.testing.assert_array_equal(np.asarray(window.channel), [0, 1] * BATCH)
    assert window.channels == 2
    for got, expected in (
        (window.past, past),
        (window.target, target),
        (window.future, future),
        (window.static, static),
    ):
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scaling", ["shared", "window"])
def test_statics_are_normalised_by_what_all_keys_share(scaling: str) -> None:
    encoding, inputs = encoded(scaling=scaling)
    area = (inputs["static_values"][:, 0] - 1000) / 100
    np.testing.assert_allclose(np.asarray(encoding.window.static)[:, 2], np.nan_to_num(area), rtol=1e-4)


@pytest.mark.parametrize("channels", ["together", "independent"])
@pytest.mark.parametrize("quantiles", [[], [0.5], [0.1, 0.2, 0.5, 0.9]])
def test_what_a_family_says_goes_to_its_cells(channels: str, quantiles: list[float]) -> None:
    """A family whose every number is its own place: undone by hand, cell by cell."""
    encoding, _ = encoded(channels=channels, quantiles=quantiles, anchor="mean")
    levels = max(1, len(quantiles))
    rows = BATCH if channels == "together" else BATCH * 2
    said = np.random.default_rng(0).normal(size=(rows, HORIZON, encoding.window.width)).astype(np.float32)
    spec = rich_spec(channels=channels, quantiles=quantiles, anchor="mean")
    assert spec.model is not None
    outputs = {name: np.asarray(output) for name, output in decode(spec.model, encoding, said).items()}
    for row in range(BATCH):
        for place, (mean, deviation) in enumerate((NUMERIC["sun"], NUMERIC["load"])):
            for step in range(HORIZON):
                if channels == "together":
                    numbers = said[row, step, place * levels : (place + 1) * levels]
                else:
                    numbers = said[row * 2 + place, step]
                start = float(np.asarray(encoding.anchor)[row, place])
                middle = quantiles.index(0.5) if quantiles else 0
                expected = (numbers[middle] + start) * deviation + mean
                assert outputs["mean"][row, step, place] == pytest.approx(expected, rel=1e-4, abs=1e-3)
                if quantiles:
                    added = np.log1p(np.exp(numbers)) * deviation
                    got = outputs["quantiles"][row, step, place]
                    assert got.shape == (levels,)
                    assert got[middle] == outputs["mean"][row, step, place]
                    steps = [*added[:middle], *added[middle + 1 :]]
                    np.testing.assert_allclose(np.diff(got), steps, rtol=1e-3, atol=1e-3)
    assert ("quantiles" in outputs) == bool(quantiles)


def test_quantiles_never_cross_however_wild_the_numbers() -> None:
    numbers = np.random.default_rng(2).normal(0, 50, (200, 7)).astype(np.float32)
    for middle in range(7):
        got = np.asarray(rising(numbers, middle))
        assert (np.diff(got, axis=-1) >= 0).all()
        np.testing.assert_array_equal(got[:, middle], numbers[:, middle])


@pytest.mark.parametrize("channels", ["together", "independent"])
def test_reversible_weights_are_undone(channels: str) -> None:
    """With any stretch and shift, a family that says what it was told of the anchor forecasts the anchor."""
    encoding, _ = encoded(channels=channels, anchor="last")
    plain = np.asarray(encoding.window.target)
    reversible, _ = encoded(channels=channels, anchor="last", reversible=True)
    assert reversible.affine is not None
    np.testing.assert_array_equal(np.asarray(reversible.window.target), plain)  # at first nothing is changed
    reversible.affine.set_weights([np.array([0.3, -2], np.float32), np.array([1, -0.5], np.float32)])
    values = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
    stretched = np.asarray(reversible.affine(values))
    np.testing.assert_allclose(stretched, values * np.exp([0.3, -2]) + [1, -0.5], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(reversible.affine(stretched, undo=True)), values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [[0.1, 0.9], [0.5, 0.4], [0.5, 0.5], [0.0, 0.5], [0.5, 1.0]])
def test_levels_rise_around_the_median(levels: list[float]) -> None:
    with pytest.raises(SpecError, match=r"\$\.model\.quantiles: expected rising levels between 0 and 1 with 0\.5"):
        rich_spec(quantiles=levels)


def test_a_role_that_a_family_cannot_take_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "lstm", Family(FAMILIES["lstm"].build, refuses=frozenset({"static"})))
    with pytest.raises(ModelError) as refused:
        build_forecaster(rich_spec(), STATISTICS)
    assert str(refused.value) == "$.model.family: 'lstm' takes no features of the role 'static', got 'area'"
