"""Probation: a version that was just promoted is held, live, against the one before it, and taken back if it is worse.

Nothing is kept between runs but the registry's records and the accuracy topic: each run works out from them where the
probation stands, so a run may be killed at any moment, and the next one does what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import isnan
from typing import Any, Literal

from filelock import FileLock

from flows.live_evidence import Evidence, accuracy_ends, gather
from flows.model_config import serve_versions
from flows.rollback import RolledBack, roll_back
from models.registry import Registry
from models.version_files import identity_of, record_of
from schemas.errors import SpecError
from schemas.probation_spec import Probation
from schemas.registry_record import Record
from schemas.spec import Spec, require_targets
from schemas.units import iso_to_ms, ms_to_iso

Outcome = Literal["undecided", "confirmed", "rolled_back", "nothing_to_do"]

EXIT_CODES: dict[Outcome, int] = {"confirmed": 0, "nothing_to_do": 3, "rolled_back": 4, "undecided": 5}
"""What a scheduler is told; 2 is bad input, as with every verb."""


@dataclass(frozen=True, slots=True)
class ProbationResult:
    """Where a probation stands.

    `version` is held against `before`, by `windows` of `wanted`. The errors are in those of persistence on the same
    windows; `p` is how probable such a difference would be if the new version were no worse.
    """

    outcome: Outcome
    reason: str
    version: int | None = None
    before: int | None = None
    windows: int = 0
    wanted: int = 0
    error: float | None = None
    error_before: float | None = None
    p: float | None = None
    rollback: RolledBack | None = None

    @property
    def exit_code(self) -> int:
        """For a scheduler."""
        return EXIT_CODES[self.outcome]

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result in words."""
        which = "" if self.version is None else f" version {self.version}:"
        told = [] if self.rollback is None else self.rollback.lines()
        return [f"{self.outcome.replace('_', ' ')}:{which} {self.reason}", *told]


def probation(spec: Spec, *, report: Callable[[str], None] = lambda _: None) -> ProbationResult:
    """Takes the champion's probation a step on: begins it, decides it if it can, or leaves it to a later run.

    Args:
      spec: with the section `retrain.probation`.
      report: is told, in words, what is done.
    Raises:
      SpecError: there is no such section, or the stream has no targets.
      BrokerError: the accuracy topic does not exist, or cannot be read.
      ModelError: the registry cannot be read or written.
      ServingError: a version was rolled back, and the server has not got the next one in time.
    """
    require_targets(spec, "compare live forecasts of")
    rule = spec.retrain.probation
    if rule is None:
        raise SpecError("$.retrain.probation: expected a section (it may be empty: probation: {}), got none")
    registry = Registry(spec.paths.models, spec.model_name)
    champion = registry.champion()
    if champion is None:
        return ProbationResult("nothing_to_do", f"{registry.folder}: there is no version yet")
    with FileLock(registry.folder / ".probation.lock"):
        if registry.record_of(champion) is None and (told := record_of(registry.path(champion)).get("rollback")):
            roll_back(spec, reason=told["reason"], bad=told["rollback_of"])  # it was killed before it was recorded
        before = _before(registry, champion)
        if before is None:
            _serve_one(spec, champion)
            return ProbationResult("nothing_to_do", "is on no probation", champion)
        begun = _begun(spec, registry, champion, before, report)
        _serve_both(spec, champion, before)
        return _decide(spec, rule, registry, begun, champion, before)


def _before(registry: Registry, champion: int) -> int | None:
    """The version that the champion is to be held against; None where its probation is over, or there never is one."""
    made = registry.record_of(champion)
    events = {record.event for record in registry.records() if record.version == champion}
    if made is None or made.event == "rolled_back" or "confirmed" in events:
        return None
    before = made.champion
    if before is None or before not in registry.versions():
        before = registry.last_good()
    if before is None or identity_of(registry.path(before)) == identity_of(registry.path(champion)):
        return None
    return before


def _begun(spec: Spec, registry: Registry, champion: int, before: int, report: Callable[[str], None]) -> Record:
    """The record of the probation's beginning, written if it begins now."""
    for record in registry.records():
        if (record.event, record.version) == ("on_probation", champion):
            return record
    how = "shadows it" if spec.serving.shadow else "is what it is measured against"
    record = _record("on_probation", f"version {before} {how}", champion, before)
    record = record.model_copy(update={"scored_from": accuracy_ends(spec)})
    registry.note(record)
    report(f"{spec.model_name} version {champion} is on probation: {record.reason}")
    return record


def _decide(
    spec: Spec, rule: Probation, registry: Registry, begun: Record, champion: int, before: int
) -> ProbationResult:
    evidence = gather(spec, rule, new=champion, old=before, since=begun.scored_from or {})
    found = evidence.comparison
    kind = "windows that both predicted" if evidence.paired else "windows of its own"
    scored = f"{evidence.windows} of {rule.windows} {kind} are scored"
    result = ProbationResult(
        "undecided",
        f"no window of version {before} is scored" if evidence.enough and found is None else scored,
        version=champion,
        before=before,
        windows=evidence.windows,
        wanted=rule.windows,
        error=None if found is None else found.new,
        error_before=None if found is None else found.old,
        p=None if found is None or isnan(found.p) else found.p,
    )
    is_over = time.time_ns() // 1_000_000 - iso_to_ms(begun.time) > rule.longest
    is_broken = evidence.broken > (1 - rule.confidence) * evidence.windows
    if not (is_over or (evidence.enough and (is_broken or found is not None))):
        return result
    reason = _reason(evidence, rule, before, is_broken=is_broken)
    if is_broken or (found is not None and found.is_worse(rule.confidence)):
        rolled_back = _take_back(spec, champion, before, f"probation: {reason}")
        return replace(result, outcome="rolled_back", reason=reason, rollback=rolled_back)
    registry.note(_record("confirmed", reason, champion, before))
    _serve_one(spec, champion)
    return replace(result, outcome="confirmed", reason=reason)


def _record(event: Literal["on_probation", "confirmed"], reason: str, champion: int, before: int) -> Record:
    now = ms_to_iso(time.time_ns() // 1_000_000)
    return Record(event=event, time=now, reason=reason, version=champion, champion=before)


def _reason(evidence: Evidence, rule: Probation, before: int, *, is_broken: bool) -> str:
    if is_broken:
        return f"it forecast no number in {evidence.broken} of {evidence.windows} windows"
    wanted = "" if evidence.enough else f", of {rule.windows} that were wanted"
    if (found := evidence.comparison) is None:
        return f"there is nothing to compare after {evidence.windows} windows{wanted}"
    where = "windows that both predicted" if evidence.paired else "windows of its own"
    sure = "too few origins to tell" if isnan(found.p) else f"p = {found.p:.2g}"
    return (
        f"its {rule.metric.upper()} is {found.new:.1%} of persistence's, that of version {before} {found.old:.1%}, on "
        f"{evidence.windows} {where}{wanted} ({sure})"
    )


# --- the server ---


def _serve_both(spec: Spec, champion: int, before: int) -> None:
    if spec.serving.canary is not None:
        serve_versions(spec, 2, _labels(spec, before) | {spec.serving.canary.label: champion})
    elif spec.serving.shadow is not None:
        serve_versions(spec, 2)


def _serve_one(spec: Spec, champion: int) -> None:
    # With labels two versions stay: the label's own must still be there when the next one comes.
    if spec.serving.canary is not None:
        serve_versions(spec, 2, _labels(spec, champion))
    elif spec.serving.shadow is not None:
        serve_versions(spec, 1)


def _take_back(spec: Spec, champion: int, before: int, reason: str) -> RolledBack:
    if spec.serving.canary is not None:
        serve_versions(spec, 3, _labels(spec, before))  # all keys go to the older one, until it is back as the newest
    rolled_back = roll_back(spec, reason=reason, bad=champion)
    if spec.serving.canary is not None:
        serve_versions(spec, 3, _labels(spec, rolled_back.version))  # the next run lets the older one go
    else:
        _serve_one(spec, rolled_back.version)
    return rolled_back


def _labels(spec: Spec, version: int) -> dict[str, int]:
    return {} if spec.serving.label is None else {spec.serving.label: version}
