"""Forests of decision trees as flat arrays, and their traversal by plain gathers: no operation that a server must know.

A node is a row. An inner node asks whether a feature is at least a threshold and says what holds where the feature is
missing (NaN), as the forest was trained; its two children are rows next to each other. A leaf leads to itself, so that
every walk may take as many steps as the deepest tree has levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray


class FlatForest:
    """Nodes of trees, appended tree by tree."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, int, int]] = []
        self._thresholds: list[float] = []
        self._values: list[float] = []
        self._roots: list[int] = []
        self._depth = 0

    def add(self, tree: Any, features: Mapping[int, int], leaf: Callable[[Any], float]) -> None:
        """Takes a tree.

        Args:
          tree: a `ydf.tree.Tree` whose conditions are all of a number being at least a threshold.
          features: from ydf's numbers of columns to those of the features that `traverse` is given.
          leaf: from a leaf's value, as ydf has it, to the number that the walk ends with.
        """
        self._roots.append(len(self._nodes))
        self._append()
        pending = [(tree.root, self._roots[-1], 0)]
        while pending:
            node, row, level = pending.pop()
            self._depth = max(self._depth, level)
            if node.is_leaf:
                self._nodes[row] = (0, row, 0)
                self._thresholds[row] = np.inf
                self._values[row] = leaf(node.value)
                continue
            condition = node.condition
            left = len(self._nodes)
            self._append()
            self._append()
            self._nodes[row] = (features[condition.attribute], left, int(condition.missing))
            self._thresholds[row] = condition.threshold
            self._values[row] = 0.0
            pending += [(node.neg_child, left, level + 1), (node.pos_child, left + 1, level + 1)]

    def _append(self) -> None:
        self._nodes.append((0, 0, 0))
        self._thresholds.append(0.0)
        self._values.append(0.0)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The forest as arrays, by name.

        `nodes` int32 (node, 3): feature, lower child, 1 where a missing value goes to the upper child; `thresholds`
        float32 (node,); `values` float32 (node,); `roots` int32 (tree,); `depth` int32 (), the greatest of all trees.
        """
        return {
            "nodes": np.array(self._nodes, np.int32),
            "thresholds": np.array(self._thresholds, np.float32),
            "values": np.array(self._values, np.float32),
            "roots": np.array(self._roots, np.int32),
            "depth": np.array(self._depth, np.int32),
        }


def traverse(numbers: Mapping[str, Any], features: Any, depth: int) -> Any:
    """Walks each row down each tree.

    Args:
      numbers: tensors of `FlatForest.arrays`.
      features: float32 (row, feature), NaN where missing.
      depth: of the deepest tree.
    Returns:
      float32 (row, tree): the values of the leaves.
    """
    node = ops.zeros_like(features[:, :1], dtype="int32") + numbers["roots"]
    for _ in range(depth):
        inner = ops.take(numbers["nodes"], node, axis=0)
        value = ops.take_along_axis(features, inner[..., 0], axis=1)
        upper = ops.cast(value >= ops.take(numbers["thresholds"], node, axis=0), "int32")
        node = inner[..., 1] + ops.where(ops.isnan(value), inner[..., 2], upper)
    return ops.take(numbers["values"], node, axis=0)
