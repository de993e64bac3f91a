"""The gate: whether a candidate is good enough to take the champion's place, by the spec's thresholds.

Both were measured on the same windows, which neither was trained or validated on. Every threshold gives a decision
with its value and its bound, whether it passed or not, so that a refusal can be understood and a promotion be looked at
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from models.evaluation import skill_name
from schemas.retrain_spec import Gate, Yardstick
from schemas.section import Section

Document = Mapping[str, Any]
"""An evaluation (`models.evaluation.Errors.report`)."""


class Decision(Section):
    """One threshold: `value` must be at least or at most `bound`. None is no number, and never passes."""

    name: str
    value: float | None
    bound: float
    at_most: bool
    passed: bool

    @property
    def text(self) -> str:
        """The decision in words."""
        value = "none" if self.value is None else f"{self.value:.4g}"
        return f"{self.name}: {value}, expected at {'most' if self.at_most else 'least'} {self.bound:.4g}"


def decide(gate: Gate, family: str, candidate: Document, champion: Document | None) -> tuple[Decision, ...]:
    """The decisions about a candidate.

    Args:
      gate: the thresholds.
      family: the candidate's. A first model that is a yardstick itself need not be ahead of that one.
      candidate: its evaluation, beside the yardsticks that the thresholds name.
      champion: that of the champion on the same windows; None where there is no champion yet.
    """
    found = [_at_least("windows", float(candidate["windows"]), gate.min_windows)]
    found += _skills(_of_a_first_model(gate, family) if champion is None else gate.skill, candidate)
    standard = candidate["standardised"]
    found += [_at_most(score, standard[score], bound) for score, bound in gate.error.items()]
    if champion is not None:
        for score, bound in gate.ratio.items():
            ratio = _ratio(standard[score], champion["standardised"][score])
            found.append(_at_most(f"{score} / champion's", ratio, bound))
        found += _slices(gate, candidate, champion)
    return tuple(found)


def _of_a_first_model(gate: Gate, family: str) -> dict[Yardstick, float]:
    """The skills that a first model needs: what every candidate needs, too."""
    both = (gate.skill, {name: least for name, least in gate.first.items() if name != family})
    return {name: max(least[name] for least in both if name in least) for name in both[0] | both[1]}


def _skills(least: Mapping[Yardstick, float], candidate: Document) -> Iterator[Decision]:
    for yardstick, bound in least.items():
        # A yardstick that the windows are too short for, such as a season, is none to beat.
        if yardstick in candidate["yardsticks"]:
            yield _at_least(f"skill against {yardstick}", candidate["standardised"][skill_name(yardstick)], bound)


def _slices(gate: Gate, candidate: Document, champion: Document) -> Iterator[Decision]:
    for target, found in candidate["targets"].items() if gate.slices else ():
        for kind, labels in found["by_slice"].items():
            for label, scores in labels.items():
                before = champion["targets"][target]["by_slice"][kind][label]
                if scores["cells"] < gate.min_cells:
                    continue
                for score, bound in gate.slices.items():
                    name = f"{score} / champion's of {target}, {kind} {label}"
                    yield _at_most(name, _ratio(scores[score], before[score]), bound)


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or reference is None:
        return None
    if not reference:
        return 1.0 if not value else float("inf")
    return value / reference


def _at_least(name: str, value: float | None, bound: float) -> Decision:
    passed = value is not None and value >= bound  # NaN is not
    return Decision(name=name, value=value, bound=float(bound), at_most=False, passed=passed)


def _at_most(name: str, value: float | None, bound: float) -> Decision:
    passed = value is not None and value <= bound
    return Decision(name=name, value=value, bound=float(bound), at_most=True, passed=passed)
