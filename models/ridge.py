"""Ridge regression from streamed normal equations: a linear map of inputs to outputs that no descent is needed for.

Rows come in batches and belong to groups (the channels of a multivariate series). Only the sums x'x and x'y of each
group are kept, in float64, so memory does not grow with the data; the map that all groups share comes from the sums of
all of them. A strength is relative: the penalty of a coefficient is the strength times the mean of x'x's diagonal, so
that it means the same whatever the number of rows and the scale of the inputs.

Outputs may be missing. Each has then observed rows of its own, but the sums x'x are kept of all rows, once. `solve`
takes those of an output to be its rows' share of them; `refine` removes what is wrong with that by iterating on the
residuals, which leads to the ridge of each output's observed rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Equations:
    """Sums over rows, by group.

    `gram` float64 (group, input, input): x'x. `product` float64 (group, input, output): x'y of observed outputs.
    `energy` float64 (group,): the squares of observed outputs. `rows` float64 (group,). `observed` float64
    (group, output): rows in which the output was observed.
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.gram = np.zeros((groups, inputs, inputs))
        self.product = np.zeros((groups, inputs, outputs))
        self.energy = np.zeros(groups)
        self.rows = np.zeros(groups)
        self.observed = np.zeros((groups, outputs))

    def add(self, inputs: Float32, outputs: Float32, observed: Bool) -> None:
        """Takes rows.

        Args:
          inputs: float32 (row, group, input), finite.
          outputs: float32 (row, group, output); whatever is not observed counts for nothing, NaN too.
          observed: bool, the shape of the outputs.
        """
        known = np.where(observed, outputs, 0)
        for group in range(len(self.rows)):
            x, y = inputs[:, group].astype(np.float64), known[:, group].astype(np.float64)
            self.gram[group] += x.T @ x
            self.product[group] += x.T @ y
            self.energy[group] += np.vdot(y, y)
        self.rows += len(inputs)
        self.observed += observed.sum(axis=0)

    def together(self) -> Equations:
        """The equations of all groups' rows as one group."""
        return self._sum(slice(None))

    def apart(self) -> list[Equations]:
        """The equations of each group alone."""
        return [self._sum(slice(group, group + 1)) for group in range(len(self.rows))]

    def _sum(self, groups: slice) -> Equations:
        one = Equations.__new__(Equations)
        for name, sums in vars(self).items():
            setattr(one, name, sums[groups].sum(axis=0, keepdims=True))
        return one

    def squared_error(self, maps: Float32) -> float:
        """The sum of (y - xb)² over rows and outputs, all of which must have been observed.

        Args:
          maps: float32 (group or 1, input, output).
        """
        total = 0.0
        for sums, coefficients in zip([self.together()] if len(maps) == 1 else self.apart(), maps, strict=True):
            b = coefficients.astype(np.float64)
            total += float(sums.energy[0] + np.vdot(b, sums.gram[0] @ b - 2 * sums.product[0]))
        return total

    def share(self) -> Float64:
        """Of each output, the share of rows in which it was observed, float64 (output,); 1 where it never was."""
        share: Float64 = self.observed.sum(axis=0) / self.rows.sum()
        return np.where(share > 0, share, 1.0)


@dataclass(frozen=True, slots=True)
class Penalty:
    """What a map may use and what large coefficients cost: `columns` int64 of the inputs, `strength` relative."""

    columns: Int64
    strength: float

    def solve(self, equations: Equations, product: Float64 | None = None) -> Float64:
        """Coefficients of one group, float64 (input, output), 0 for the inputs that are not used.

        Args:
          equations: of one group.
          product: float64 (input, output) instead of the equations' own.
        """
        right = equations.product[0] if product is None else product
        gram = equations.gram[0][np.ix_(self.columns, self.columns)]
        gram = gram + self._cost(equations) * np.eye(len(gram))
        coefficients = np.zeros_like(right)
        coefficients[self.columns] = np.linalg.solve(gram, right[self.columns] / equations.share())
        return coefficients

    def pull(self, equations: Equations, coefficients: Float64) -> Float64:
        """How strongly the penalty pulls coefficients of one group to 0, against x'(y - xb): (input, output)."""
        return self._cost(equations) * coefficients * equations.share()

    def _cost(self, equations: Equations) -> float:
        # The least is there for inputs that never varied: their equations alone have no solution.
        level = float(np.diagonal(equations.gram[0])[self.columns].mean()) or 1.0
        return max(self.strength, _LEAST_STRENGTH) * level


_LEAST_STRENGTH = 1e-10


def refine(penalty: Penalty, equations: Equations, coefficients: Float64, residual: Float64) -> Float64:
    """Coefficients nearer to the ridge of each output's observed rows.

    Args:
      penalty: that they were solved with.
      equations: of one group.
      coefficients: float64 (input, output).
      residual: float64 (input, output): x'(y - xb) over observed outputs, with these coefficients b.
    Returns:
      float64 (input, output). Of rows that are missing by a share q, a step leaves about q of what was wrong.
    """
    return coefficients + penalty.solve(equations, residual - penalty.pull(equations, coefficients))
