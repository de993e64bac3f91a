"""What a simulation of the closed loop has shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flows.verify import Parity
from schemas.trigger import Trigger
from schemas.units import ms_to_iso

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Happening:
    """A record that came to be in the registry, and the event time that it was by then, epoch milliseconds."""

    time_ms: int
    event: str
    version: int | None
    reason: str

    @property
    def line(self) -> str:
        """It in words."""
        version = "" if self.version is None else f" version {self.version}"
        return f"{_hour(self.time_ms):<18} {self.event.replace('_', ' ')}{version}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LiveError:
    """The scored predictions of one interval that its versions answered; errors in the target's unit."""

    start_ms: int
    versions: tuple[int, ...]
    windows: int
    mae: float
    mae_persistence: float


@dataclass(frozen=True, slots=True)
class Serving:
    """The windows that one version answered; the origins are of the first and the last, epoch milliseconds."""

    version: int
    windows: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came of it. Times are event times, epoch milliseconds; errors are of the first target, in its unit.

    `better` is the version that was promoted after the change, is confirmed, and beats persistence live; `sabotaged`
    the one that was pushed by hand, `champion` the one that answers at the end, and `restored` the version whose files
    came back.
    """

    target: str
    offsets: dict[str, float]
    begin_ms: int
    change_ms: int
    end_ms: int
    intervals: tuple[LiveError, ...]
    served: tuple[Serving, ...]
    happened: tuple[Happening, ...]
    triggers: tuple[Trigger, ...]
    better: int | None
    events_to_better: int | None
    """From the change to the first prediction of the better version."""
    sabotaged: int
    restored: int | None
    champion: int
    probation_windows: int
    """On so many pairs the sabotaged version was judged ..."""
    probation_wanted: int
    """... and so many the spec sets."""
    events: int
    predictions: Parity
    """The champion's, beside the windows that the events have by the batch path."""
    doubled: int
    failed: int
    """Dead letters."""
    error_before: float
    error_changed: float
    """From the change until the better version answered."""
    error_after: float
    """From then on until the sabotaged version did."""
    error_sabotaged: float
    error_restored: float
    seconds: dict[str, float]
    picture: str

    @property
    def ms_to_better(self) -> int | None:
        """Event time from the change to the first prediction of the better version, in ms."""
        return next((one.first_ms - self.change_ms for one in self.served if one.version == self.better), None)

    @property
    def lost(self) -> int:
        """Windows that were never predicted."""
        return self.predictions.only_batch

    @property
    def drift_was_told(self) -> bool:
        """Whether drift was told after the change, and before the better version answered."""
        until_ms = self.change_ms + (self.ms_to_better or 0)
        return any(self.change_ms < trigger.time_ms <= until_ms for trigger in self.triggers)

    @property
    def rolled_back_in_time(self) -> bool:
        """Whether the sabotaged version was taken back, on no more windows than are set."""
        return self.restored is not None and self.probation_windows <= self.probation_wanted

    @property
    def holds(self) -> bool:
        """Whether the loop did all that it is there for."""
        return (
            self.drift_was_told
            and self.better is not None
            and self.error_before < self.error_changed
            and self.error_after < self.error_changed
            and self.rolled_back_in_time
            and self.error_restored < self.error_sabotaged
            and self.predictions.holds
            and self.doubled == self.failed == 0
        )

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return asdict(self) | {
            "ms_to_better": self.ms_to_better,
            "lost": self.lost,
            "drift_was_told": self.drift_was_told,
            "rolled_back_in_time": self.rolled_back_in_time,
            "holds": self.holds,
        }

    def lines(self) -> list[str]:
        """The result as a table."""
        return [*self._errors(), *self._story(), *self._figures()]

    def _errors(self) -> list[str]:
        lines = [f"{'':<18} {'versions':<12}{'windows':>8}{'live MAE':>10}{'persistence':>13}   of {self.target}"]
        for one in self.intervals:
            versions = ", ".join(map(str, one.versions))
            name = ("" if one.start_ms < self.change_ms else "changed ") + ms_to_iso(one.start_ms)[:10]
            lines.append(f"{name:<18} {versions:<12}{one.windows:>8}{one.mae:>10.2f}{one.mae_persistence:>13.2f}")
        return lines

    def _story(self) -> list[str]:
        offsets = ", ".join(f"{name} {offset:+g}" for name, offset in self.offsets.items())
        told = [(self.change_ms, f"{_hour(self.change_ms):<18} the change: {offsets} from here on")]
        told += [(one.time_ms, f"{_hour(one.time_ms):<18} drift: {one.reason}") for one in self.triggers]
        told += [(one.time_ms, one.line) for one in self.happened]
        return [line for _, line in sorted(told, key=lambda one: one[0])]

    def _figures(self) -> list[str]:
        wait = "never"
        if self.ms_to_better is not None:
            wait = f"after {self.ms_to_better / _HOUR_MS:.0f} h, {self.events_to_better} events: version {self.better}"
        swaps = ", ".join(f"{one.version} ({one.windows})" for one in self.served)
        back = "NOT taken back"
        if self.restored is not None:
            answered = sum(one.windows for one in self.served if one.version == self.sabotaged)
            back = (
                f"version {self.sabotaged} taken back on {self.probation_windows} of {self.probation_wanted} windows "
                f"that both predicted, after {answered} that it answered: version {self.restored} is back"
            )
        rows = [
            ("drift told", "yes" if self.drift_was_told else "NO"),
            ("a better model", wait),
            ("the bad one", back),
            ("live MAE", f"{self.error_before:.2f} before the change, {self.error_changed:.2f} after it"),
            ("", f"{self.error_after:.2f} with the better model"),
            ("", f"{self.error_sabotaged:.2f} sabotaged, {self.error_restored:.2f} after the rollback"),
            ("versions", f"{swaps} (windows answered)"),
            ("events", str(self.events)),
            ("predictions", f"{self.lost} lost, {self.doubled} doubled, {self.failed} failed"),
            ("  as expected", *self.predictions.lines()),
            ("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())),
            ("picture", self.picture),
        ]
        text = [f"{name:<18} {value}" for name, value, *_ in rows]
        return [*text, "everything holds" if self.holds else "NOT everything holds"]


def _hour(time_ms: int) -> str:
    return f"{ms_to_iso(time_ms)[:13]}h"
