"""The linear map of a window to its horizon that least squares with a ridge gives: no descent, no seeds, seconds.

On the usual long-horizon benchmarks a map of the anchored window, shared over the channels, is ahead of most published
networks (Zeng et al., 2023; Toner and Darlow, 2024, show that their linear models are this one). Here it sees the
target's distance from its anchor at each step (0 where masked), past covariates, what is known of the horizon and
statics. How far it looks back, how strong the ridge is and whether each channel has a map of its own is chosen on the
validation split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.fitting import Encoder, Fitted, Numbers, State
from models.ridge import Bool, Equations, Float32, Float64, Penalty, refine
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from schemas.model_spec import LinearModel
from schemas.spec import Spec

_PASSES = 20
"""At most so many passes over the data for outputs that are missing in some rows."""
_MOST_INPUTS = 8192
"""Whose equations take half a gigabyte for each channel, and a minute to solve."""
_SETTLED = 1e-4
"""A pass that moves no coefficient by more than this share of the largest is the last."""


def build(options: LinearModel, window: EncodedWindow, *, portable: bool, state: State) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`.

    `state` has `map`, float32 (channel or 1, input, output), and `inputs`, int32 (3,): see `_Inputs`.
    """
    steps, *rest = _Inputs(*state["inputs"].tolist()).of(window)
    inputs = ops.concatenate((ops.reshape(steps, (-1, steps.shape[1] * steps.shape[2])), *rest), axis=-1)
    maps = Numbers({"map": state["map"]}, name="linear")(inputs)["map"]
    rows = ops.reshape(inputs, (-1, len(state["map"]) if window.channel is not None else 1, inputs.shape[-1]))
    moved = ops.einsum("bci,cio->bco", rows, maps)
    return ops.reshape(moved, (-1, window.horizon, window.width))


def fit(spec: Spec, folder: DatasetFolder, *, passes: int = _PASSES) -> Fitted:
    """Fits the map to the train split, and chooses how on the validation split.

    With fewer `passes` an output that is missing in some rows has less exactly the ridge of its observed ones.
    """
    options = spec.model
    if not isinstance(options, LinearModel):
        raise TypeError(f"expected a spec of the family 'linear', got {options}")
    chosen = _Inputs.chosen(spec, options)
    data = _Rows(spec, folder, chosen)
    equations = data.equations()
    candidates = list(_candidates(options, chosen.reach, data.step_width, equations))
    errors = data.squared_errors("validation", candidates)
    best = candidates[int(errors.argmin())]
    fitted = _for_observed(best, equations, data, passes)
    listed = [
        {**candidate.describe(), "validation_mse": float(error)}
        for candidate, error in zip(candidates, errors, strict=True)
    ]
    report = {**listed[int(errors.argmin())], "candidates": listed}
    how = f"{best.look_back} steps, weights {report['weights']}, strength {best.penalty.strength:g}"
    summary = f"{how}: validation MSE {errors.min():.4f} (standardised)"
    numbers = np.array((chosen.reach, chosen.last, chosen.waves), np.int32)
    return Fitted({"map": fitted, "inputs": numbers}, report, summary)


def _require_room(inputs: int) -> None:
    if inputs > _MOST_INPUTS:
        raise ModelError(
            f"$.model: expected a linear map of at most {_MOST_INPUTS} inputs, got one of {inputs}; give it a shorter "
            "'look_back', or 'channels: independent'"
        )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What of a window is an input: its last `reach` steps, without the `last` channels of its past, and what is known.

    The channels left out are flags of covariates (a masked one is 0, the mean, and that will do) and calendar phases,
    which follow from those of the horizon. Of these, the first `waves` channels of its future, the first step's will
    do: sine and cosine turn by a fixed angle each step, so that they say all that a linear map can use.
    """

    reach: int
    last: int
    waves: int

    @classmethod
    def chosen(cls, spec: Spec, options: LinearModel) -> _Inputs:
        """Of a spec."""
        features = spec.stream.inputs
        waves = 2 * sum(feature.calendar is not None for feature in features)
        covariates = sum(feature.role in ("past", "future") and feature.calendar is None for feature in features)
        return cls(max(options.look_back, default=spec.window.past), covariates + waves, waves)

    def of(self, window: EncodedWindow) -> list[Any]:
        """The inputs of a window: (n, reach, channel), and as many (n, channel) as there are kinds of others.

        There is no constant among them: the drift of the whole train split is nothing to go on, least of all far ahead.
        """
        past, targets = window.target.shape[1:]
        beside = window.past[..., 2 * targets : window.past.shape[-1] - self.last]
        parts = [ops.concatenate((window.target, beside), axis=-1)[:, past - self.reach :]]
        if window.future is not None:
            announced = window.future.shape[-1] - self.waves
            if announced:
                parts.append(ops.reshape(window.future[..., self.waves :], (-1, window.horizon * announced)))
            parts.append(window.future[:, 0, : self.waves])
        if window.static is not None:
            parts.append(window.static)
        return parts


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A map, float32 (group or 1, input, output), and how it came about."""

    look_back: int
    penalty: Penalty
    map: Float32

    def describe(self) -> dict[str, Any]:
        weights = "shared" if len(self.map) == 1 else "per_channel"
        return {"look_back": self.look_back, "weights": weights, "strength": self.penalty.strength}

    def of(self, inputs: Float32) -> Float32:
        """What it makes of inputs: (row, group, input) -> (row, group, output)."""
        outputs: Float32 = np.matmul(inputs.swapaxes(0, 1), self.map).swapaxes(0, 1)
        return outputs


def _candidates(options: LinearModel, reach: int, step_width: int, equations: Equations) -> Iterator[_Candidate]:
    ways = {"shared": [equations.together()], "per_channel": equations.apart()}
    if len(ways["per_channel"]) == 1:
        del ways["per_channel"]
    elif options.weights != "auto":
        ways = {options.weights: ways[options.weights]}
    for look_back in options.look_back or (reach,):
        columns = np.arange((reach - look_back) * step_width, equations.gram.shape[-1])
        for strength in options.strengths:
            penalty = Penalty(columns, strength)
            for way in ways.values():
                maps = [penalty.solve(one).astype(np.float32) for one in way]
                yield _Candidate(look_back, penalty, np.stack(maps))


def _for_observed(chosen: _Candidate, equations: Equations, data: _Rows, passes: int) -> Float32:
    """The chosen map, of each output's observed rows alone where it is missing in others (`models.ridge`)."""
    if (equations.observed == equations.rows[:, None]).all():
        return chosen.map
    ways = [equations.together()] if len(chosen.map) == 1 else equations.apart()
    for _ in range(passes):
        residual = data.residual(chosen)
        if len(ways) == 1:
            residual = residual.sum(axis=0, keepdims=True)
        better = [
            refine(chosen.penalty, *parts) for parts in zip(ways, chosen.map.astype(np.float64), residual, strict=True)
        ]
        moved = np.abs(np.stack(better) - chosen.map).max()
        chosen = _Candidate(chosen.look_back, chosen.penalty, np.stack(better).astype(np.float32))
        if moved <= _SETTLED * np.abs(chosen.map).max():
            break
    return chosen.map


class _Rows:
    """A dataset as rows of inputs and outputs, in groups: the targets where they are forecast one by one, else one."""

    def __init__(self, spec: Spec, folder: DatasetFolder, chosen: _Inputs) -> None:
        def view(window: EncodedWindow) -> dict[str, Any]:
            return {str(number): part for number, part in enumerate(chosen.of(window))}

        self._apart = spec.model is not None and spec.model.channels == "independent"
        self._groups = len(spec.targets) if self._apart else 1
        self._folder, self._encoder = folder, Encoder(spec, folder, view)
        self.step_width: int = self._encoder.shapes["0"][-1]

    def equations(self) -> Equations:
        """Of the train split."""
        sums: Equations | None = None
        for inputs, outputs, observed, _ in self._batches("train"):
            if sums is None:
                _require_room(inputs.shape[-1])
                sums = Equations(self._groups, inputs.shape[-1], outputs.shape[-1])
            sums.add(inputs, outputs, observed)
        if sums is None:
            raise ValueError("expected windows in the train split, got none")
        return sums

    def squared_errors(self, split: str, candidates: list[_Candidate]) -> Float64:
        """Of each candidate, the mean over observed cells, in standardised units."""
        total, cells = np.zeros(len(candidates)), 0
        sums: Equations | None = None
        for inputs, outputs, observed, scale in self._batches(split):
            cells += int(observed.sum())
            rest = np.ones(len(inputs), bool)
            if self._folder.split(split).windows > inputs.shape[-1]:
                # Sums over rows without a gap tell every candidate's error, which costs less than so many forecasts.
                rest = ~(observed & (scale == scale[..., :1])).all(axis=(1, 2))
                even = scale[~rest, :, :1]
                sums = sums or Equations(self._groups, inputs.shape[-1], outputs.shape[-1])
                sums.add(inputs[~rest] * even, outputs[~rest] * even, observed[~rest])
            for number, candidate in enumerate(candidates if rest.any() else ()):
                error = np.where(observed[rest], (candidate.of(inputs[rest]) - outputs[rest]) * scale[rest], 0)
                total[number] += np.vdot(error, error)
        if sums is not None and sums.rows.any():
            total += [sums.squared_error(candidate.map) for candidate in candidates]
        return total / max(1, cells)

    def residual(self, candidate: _Candidate) -> Float64:
        """x'(y - xb) over the train split's observed outputs: (group, input, output)."""
        total: Any = 0.0
        for inputs, outputs, observed, _ in self._batches("train"):
            error = np.where(observed, outputs - candidate.of(inputs), 0).astype(np.float64)
            total = total + np.matmul(inputs.transpose(1, 2, 0).astype(np.float64), error.swapaxes(0, 1))
        return np.asarray(total)

    def _batches(self, split: str) -> Iterator[tuple[Float32, Float32, Bool, Float32]]:
        """Inputs (row, group, input), outputs, where they are known, and their scale (row, group, output)."""
        for examples in self._encoder.examples(split):
            parts = [examples.views[name] for name in self._encoder.shapes]
            inputs = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
            scale = np.broadcast_to(examples.scale[:, None], examples.outputs.shape)
            outputs, observed, scale = map(self._grouped, (examples.outputs, examples.observed, scale))
            yield inputs.reshape(len(outputs), self._groups, -1), outputs, observed, scale

    def _grouped(self, cells: NDArray[Any]) -> NDArray[Any]:
        """(batch, horizon, target) -> (batch, group, output)."""
        return cells.swapaxes(1, 2) if self._apart else cells.reshape(len(cells), 1, -1)
