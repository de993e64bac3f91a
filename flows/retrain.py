"""Retrain: one run for one interval, from new data to a version that serves, or to the reason why not.

    spans ─▶ dataset ─▶ train ─▶ champion ─▶ gate ─▶ canary ─▶ push ─▶ serve

A run that was killed goes on where it was, and ends as if nothing had happened; one that is finished does nothing. Runs
of a stream lock each other out. Until a candidate has passed everything, no server can see it.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flows.journal import Journal
from flows.mlflow_log import log_run
from flows.notify import notify
from flows.retrain_folders import CARD_FILE, locked, run_folder
from flows.retrain_plan import Plan, interval_of, plan_of
from flows.retrain_steps import RUN, Refused, Steps
from models.layout import EXPORT_FOLDER
from models.registry import Registry, lineage_of, metrics_of
from models.version_files import identity_of
from schemas.errors import Interrupted, SpecError, TidegaugeError
from schemas.registry_record import Record
from schemas.spec import Spec, require_targets
from schemas.units import ms_to_iso

Outcome = Literal["promoted", "refused", "nothing_to_do", "busy", "failed"]

EXIT_CODES: dict[Outcome, int] = {"promoted": 0, "failed": 1, "nothing_to_do": 3, "refused": 4, "busy": 5}
"""What a scheduler is told; 2 is bad input, as with every verb."""


@dataclass(frozen=True, slots=True)
class RetrainResult:
    """What came of a run.

    `version` is the one that was promoted, and `champion` the one that the candidate was to replace; `final` says
    whether a rerun of the interval would do nothing. In a dry run a candidate that passes is `promoted`, without a
    version.
    """

    outcome: Outcome
    reason: str
    interval: tuple[str, str]
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

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return {**asdict(self), "interval": list(self.interval)}

    def lines(self) -> list[str]:
        """The result in words."""
        what = self.outcome.replace("_", " ") + (f" as version {self.version}" if self.version is not None else "")
        dry = " (dry run)" if self.dry_run else ""
        lines = [f"{self.interval[0]} to {self.interval[1]}: {what}{dry}: {self.reason}"]
        return [*lines, f"run card: {self.card}"] if self.card else lines


def retrain(
    spec: Spec,
    *,
    inputs: Sequence[str] = (),
    interval: tuple[str, str] | None = None,
    as_of: str | None = None,
    dry_run: bool = False,
    again: bool = False,
    beam_args: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> RetrainResult:
    """Ingests an interval's span, trains, gates, tries and publishes a model; each step once, whatever happens.

    Args:
      spec: with a model; its `split` plays no part.
      inputs: files and patterns, or topics (`kafka:TOPIC`), as `pipelines.ingest.ingest` takes them; the spec's input
        topic when left out.
      interval: start and end (exclusive), ISO 8601; when left out, the newest whole one at `as_of`.
      as_of: ISO 8601; now when left out.
      dry_run: does all but publish, record and notify; what it did is there for the run that does.
      again: does a finished interval anew.
      beam_args: Beam's options for the ingest.
      report: is told, in words, what is done.
      quiet: training prints nothing.
    Raises:
      SpecError: the spec has no model or no target, or an interval that is none.
      InputError: the interval is none, or an input names nothing.
      Interrupted: training was asked to stop; the next run goes on.
    """
    from pipelines.sources.inputs import KAFKA, match_inputs

    require_targets(spec, "retrain on")
    if spec.model is None:
        raise SpecError("$.model: expected a model to train, got none")
    start_ms, end_ms = interval_of(spec, interval, as_of, time.time_ns() // 1_000_000)
    told = (ms_to_iso(start_ms), ms_to_iso(end_ms))
    sources = list(inputs) or [f"{KAFKA}{spec.topics.input.name}"]
    with locked(spec) as free:
        if not free:
            return RetrainResult("busy", "another run of this stream is under way", told)
        folder = run_folder(spec, start_ms, end_ms)
        if again:
            shutil.rmtree(folder, ignore_errors=True)
        journal = Journal(folder, report)
        if (done := journal.get("outcome")) is not None and done["final"]:
            return RetrainResult("nothing_to_do", f"{done['outcome']} already: {done['reason']}", told, final=True)
        if not any(source.startswith(KAFKA) for source in sources):
            match_inputs(spec, sources)  # a user's mistake is told before anything is begun
        plan, journal = _begun(spec, start_ms, end_ms, folder, journal, report)
        steps = Steps(spec, plan, folder, journal, sources=sources, beam_args=beam_args, report=report, quiet=quiet)
        return _finish(spec, plan, folder, journal, steps, _outcome(steps, journal, plan, dry_run=dry_run))


def _begun(
    spec: Spec, start_ms: int, end_ms: int, folder: Path, journal: Journal, report: Callable[[str], None]
) -> tuple[Plan, Journal]:
    """The plan of the run, and the journal of what is done of it; what was begun by another plan is thrown away."""
    registry = Registry(spec.paths.models, spec.model_name)
    before = journal.get("plan")
    champion = registry.champion()
    # A run that was killed after it had published finds its own candidate as the champion.
    if before is not None and (journal.result("push") or registry.holds(champion, folder / RUN / EXPORT_FOLDER)):
        champion = before["champion"]
    plan = plan_of(spec, start_ms, end_ms, champion)
    document = json.loads(json.dumps(plan.document(spec)))
    if before != document:
        shutil.rmtree(folder, ignore_errors=True)
        journal = Journal(folder, report)
        journal.note(plan=document)
    if journal.get("look_again"):  # its data was refused, and may have been mended, or have come, since
        journal.note(steps={}, look_again=False, looking_again=True)
    return plan, journal


def _outcome(steps: Steps, journal: Journal, plan: Plan, *, dry_run: bool) -> RetrainResult:
    """Does the steps, and says what came of them."""
    champion = None if plan.champion is None else plan.champion.version
    try:
        version = steps.promote(dry_run=dry_run)
    except Refused as exc:
        return RetrainResult(
            "refused", str(exc), plan.interval, champion=champion, final=exc.final and not dry_run, dry_run=dry_run
        )
    except (Interrupted, SpecError):
        raise
    except TidegaugeError as exc:
        return RetrainResult("failed", str(exc), plan.interval, champion=champion, dry_run=dry_run)
    gate = journal.result("gate") or {}
    return RetrainResult(
        "promoted", gate["reason"], plan.interval, version, champion, final=not dry_run, dry_run=dry_run
    )


def _finish(
    spec: Spec, plan: Plan, folder: Path, journal: Journal, steps: Steps, result: RetrainResult
) -> RetrainResult:
    """Writes the run card and, unless it was a dry run, the refusal's record; tells who wants to know."""
    from flows.run_card import write_card

    card = folder / CARD_FILE
    result = replace(result, card=str(card))
    candidate, champion = steps.evaluations()
    write_card(card, spec, plan, journal.document, result.document(), candidate, champion)
    if not result.dry_run:
        if result.outcome == "refused" and result.final:
            _record_refusal(spec, folder, steps, result)
        if result.outcome in ("promoted", "refused"):
            told = {"stream": spec.stream.name, "model": spec.model_name, **result.document()}
            notify(spec.retrain.notify, "promoted" if result.outcome == "promoted" else "refused", told)
            if spec.retrain.mlflow is not None and result.final:
                log_run(spec.retrain.mlflow, spec.model_name, _record(spec, result), card)
    journal.note(outcome=result.document())
    return result


def _record(spec: Spec, result: RetrainResult) -> Record:
    """The registry's record of a result that is final."""
    records = reversed(Registry(spec.paths.models, spec.model_name).records())
    return next(one for one in records if (one.event, one.interval) == (result.outcome, result.interval))


def _record_refusal(spec: Spec, folder: Path, steps: Steps, result: RetrainResult) -> None:
    registry, export = Registry(spec.paths.models, spec.model_name), folder / RUN / EXPORT_FOLDER
    record = steps.about(
        Record(
            event="refused",
            time=ms_to_iso(time.time_ns() // 1_000_000),
            reason=result.reason,
            champion=result.champion,
            identity=identity_of(export) if export.is_dir() else None,
            run=str((folder / RUN).absolute()),
            lineage=lineage_of(export) if export.is_dir() else None,
            metrics=metrics_of(export) if export.is_dir() else {},
        )
    )
    # A run that was killed before it was done has written it already.
    if not any(one.model_copy(update={"time": record.time}) == record for one in registry.records()[-1:]):
        registry.note(record)
