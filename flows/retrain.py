"""Retrain: one run for one interval, from new data to a version that serves, or to the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.errors import SpecError
from schemas.spec import Spec

Outcome = Literal["promoted", "refused", "nothing_to_do", "busy", "failed"]

EXIT_CODES: dict[Outcome, int] = {"promoted": 0, "failed": 1, "nothing_to_do": 3, "refused": 4, "busy": 5}
"""What a scheduler is told; 2 is bad input, as with every verb."""


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """What came of a run.

    `version` is the one that was promoted, or in a dry run would be; `champion` the one that serves if none was;
    `final` says whether a rerun of the interval would do nothing.
    """

    outcome: Outcome
    reason: str
    interval: tuple[str, str] | None
    """ISO 8601."""
    version: int | None = None
    champion: int | None = None
    card: str | None = None
    """The run card's file."""
    final: bool = False
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        """For a scheduler."""
        return EXIT_CODES[self.outcome]


def retrain(
    spec: Spec,
    *,
    inputs: Sequence[str] = (),
    interval: tuple[str, str] | None = None,
    as_of: str | None = None,
    dry_run: bool = False,
    beam_args: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> RetrainResult:
    """Ingests an interval's span, trains, gates, tries and publishes a model; each step once, whatever happens.

    Args:
      spec: with a model and the section `retrain`.
      inputs: files and patterns, or topics (`kafka:TOPIC`), as `pipelines.ingest.ingest` takes them; the spec's input
        topic when left out.
      interval: start and end (exclusive), ISO 8601; when left out, the newest whole one at `as_of`.
      as_of: ISO 8601; now when left out.
      dry_run: does all but publish and record; what it did is there for the run that does.
      beam_args: Beam's options for the ingest.
      report: is told, in words, what is done.
      quiet: training prints nothing.
    Raises:
      SpecError: the spec has no model, no target, or splits that cannot be retrained on.
      InputError: the interval is none.
    """
    raise NotImplementedError


def interval_of(spec: Spec, as_of_ms: int) -> tuple[int, int]:
    """The newest interval that is over at a time: intervals are counted from the epoch, in steps of the grid."""
    length, offset = spec.retrain.interval, spec.grid.offset
    if length % spec.grid.step:
        raise SpecError(f"$.retrain.interval: expected a multiple of $.grid.step, got {length} ms")
    end = (as_of_ms - spec.grid.lateness - offset) // length * length + offset
    return end - length, end
