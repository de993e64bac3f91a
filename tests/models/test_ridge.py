import numpy as np
import pytest

from models.ridge import Equations, Penalty, refine

_GROUPS, _INPUTS, _OUTPUTS = 3, 6, 4


def _rows(rng: np.random.Generator, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    inputs = rng.normal(size=(count, _GROUPS, _INPUTS)) * np.array([1, 5, 0.2, 3, 1, 1])
    truth = rng.normal(size=(_GROUPS, _INPUTS, _OUTPUTS))
    outputs = np.einsum("rgi,gio->rgo", inputs, truth) + rng.normal(size=(count, _GROUPS, _OUTPUTS))
    return inputs.astype(np.float32), outputs.astype(np.float32)


def _ridge(inputs: np.ndarray, outputs: np.ndarray, strength: float, used: np.ndarray) -> np.ndarray:
    """Least squares of the rows with a row of the penalty's root for each coefficient."""
    x, y = inputs[:, used].astype(float), outputs.astype(float)
    cost = strength * (x**2).sum(axis=0).mean()
    extra = np.sqrt(cost) * np.eye(len(used))
    coefficients = np.zeros((inputs.shape[1], y.shape[1]))
    coefficients[used] = np.linalg.lstsq(np.vstack((x, extra)), np.vstack((y, np.zeros((len(extra), y.shape[1])))))[0]
    return coefficients


@pytest.mark.parametrize("strength", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("first", [0, 2])
def test_solves_what_least_squares_of_the_rows_gives(strength: float, first: int) -> None:
    inputs, outputs = _rows(np.random.default_rng(0))
    equations = Equations(_GROUPS, _INPUTS, _OUTPUTS)
    for part in np.array_split(np.arange(len(inputs)), 7):
        equations.add(inputs[part], outputs[part], np.ones(outputs[part].shape, bool))
    used = np.arange(first, _INPUTS)
    penalty = Penalty(used, strength)
    for group, alone in enumerate(equations.apart()):
        expected = _ridge(inputs[:, group], outputs[:, group], strength, used)
        np.testing.assert_allclose(penalty.solve(alone), expected, rtol=1e-6, atol=1e-8)
    together = _ridge(inputs.reshape(-1, _INPUTS), outputs.reshape(-1, _OUTPUTS), strength, used)
    np.testing.assert_allclose(penalty.solve(equations.together()), together, rtol=1e-6, atol=1e-8)


def test_refining_leads_to_the_ridge_of_each_outputs_observed_rows() -> None:
    rng = np.random.default_rng(1)
    inputs, outputs = (part[:, :1] for part in _rows(rng))
    # Missing more often where an input is large, so that the observed rows are not like all.
    observed = rng.random(outputs.shape) > np.array([0, 0.1, 0.3, 0.5]) * (1 + (inputs[..., :1] > 0))
    equations = Equations(1, _INPUTS, _OUTPUTS)
    equations.add(inputs, np.where(observed, outputs, np.nan), observed)
    x, y, known = inputs[:, 0].astype(float), outputs[:, 0].astype(float), observed[:, 0]
    used = np.arange(_INPUTS)
    penalty = Penalty(used, 0.0)
    coefficients = penalty.solve(equations)
    for _ in range(60):
        residual = x.T @ np.where(known, y - x @ coefficients, 0)
        coefficients = refine(penalty, equations, coefficients, residual)
    for output in range(_OUTPUTS):
        rows = known[:, output]
        expected = _ridge(x[rows], y[rows, output : output + 1], 0.0, used)
        np.testing.assert_allclose(coefficients[:, output], expected[:, 0], rtol=1e-4, atol=1e-6)


def test_an_input_that_never_varies_and_an_output_that_never_came_give_nothing() -> None:
    inputs, outputs = _rows(np.random.default_rng(2))
    inputs[..., 0] = 0
    observed = np.ones(outputs.shape, bool)
    observed[..., 1] = False
    equations = Equations(_GROUPS, _INPUTS, _OUTPUTS)
    equations.add(inputs, outputs, observed)
    coefficients = Penalty(np.arange(_INPUTS), 0.0).solve(equations.together())
    assert np.isfinite(coefficients).all()
    assert not coefficients[0].any()
    assert not coefficients[:, 1].any()


def test_the_squared_error_of_maps_follows_from_the_sums() -> None:
    rng = np.random.default_rng(3)
    inputs, outputs = _rows(rng)
    equations = Equations(_GROUPS, _INPUTS, _OUTPUTS)
    equations.add(inputs, outputs, np.ones(outputs.shape, bool))
    for groups in (1, _GROUPS):
        maps = rng.normal(size=(groups, _INPUTS, _OUTPUTS)).astype(np.float32)
        expected = np.square(outputs - np.einsum("rgi,gio->rgo", inputs, np.broadcast_to(maps, (_GROUPS, 6, 4)))).sum()
        assert equations.squared_error(maps) == pytest.approx(expected, rel=1e-5)
