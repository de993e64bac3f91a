"""The steps of a retraining run, each of which may be killed and done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.canary import CanaryFailed, try_out
from flows.journal import Journal
from flows.retrain_folders import span_store
from flows.retrain_plan import Plan
from flows.rollback import wait_until_served
from models.registry import Registry
from models.version_files import identity_of
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, InputError, Interrupted, ModelError, ServingError, TidegaugeError
from schemas.registry_record import Record
from schemas.spec import Spec
from schemas.split_spec import DateSplit
from schemas.units import ms_to_iso
from streaming.serving_client import ServingClient

DATASET, RUN, CHAMPION = "dataset", "run", "champion"
"""Folders of a run."""

_DAY_MS = 86_400_000
_DAYS_SHOWN = 10


class Refused(TidegaugeError):
    """The candidate does not become a version. `final`: nor would it if the run were done again."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class Steps:
    """The steps of one run.

    Args:
      spec: the stream.
      plan: of the run.
      folder: the run's.
      journal: its journal.
      sources: files or topics of the events.
      beam_args: Beam's options for the ingest.
      report: is told what takes time.
      quiet: training prints nothing.
    """

    def __init__(
        self,
        spec: Spec,
        plan: Plan,
        folder: Path,
        journal: Journal,
        *,
        sources: Sequence[str],
        beam_args: Sequence[str],
        report: Callable[[str], None],
        quiet: bool,
    ) -> None:
        self._spec, self._plan, self._folder, self._journal = spec, plan, folder, journal
        self._sources, self._beam_args, self._report, self._quiet = sources, beam_args, report, quiet
        self._registry = Registry(spec.paths.models, spec.model_name)

    def promote(self, *, dry_run: bool) -> int | None:
        """Does what is left to do.

        Returns:
          The version that serves now; None in a dry run, which ends before anything is published.
        Raises:
          Refused: the candidate is not good enough, or something else is not as it must be.
          Interrupted: training was asked to stop.
          TidegaugeError: something that may be different the next time.
        """
        champion, spec = self._plan.champion, self._plan.spec
        if champion is not None and champion.window_fingerprint != self._spec.window_fingerprint:
            raise Refused(
                f"the champion, version {champion.version}, was made for other windows than the spec's, so there is "
                "nothing to compare with; publish the first model of these windows by hand (tidegauge push)",
                final=False,
            )
        if spec is None:
            assert champion is not None
            raise Refused(f"the champion, version {champion.version}, was trained on data of this interval", final=True)
        step = self._journal.step
        try:
            step("spans", self._spans)
            self._require_data(spec, step("dataset", lambda: self._dataset(spec)))
        except Refused:
            self._journal.note(look_again=True)
            raise
        step("train", lambda: self._train(spec))
        if champion is not None:
            step("champion", lambda: self._champion(spec, champion.version))
        gate = step("gate", lambda: self._gate(spec))
        if failed := [one["text"] for one in gate["decisions"] if not one["passed"]]:
            raise Refused("the gate: " + "; ".join(failed), final=True)
        step("canary", lambda: self._canary(spec))
        if dry_run:
            return None
        version = int(step("push", lambda: self._push(gate["reason"]))["version"])
        step("serve", lambda: self._serve(version))
        return version

    def _spans(self) -> dict[str, Any]:
        """Ingests what of the plan's data no span holds yet, and the interval again where it was found wanting."""
        from flows.span_dataset import interval_of, spans_within, store_spec, uncovered
        from pipelines.ingest import ingest

        plan, store, spec = self._plan, span_store(self._spec), store_spec(self._spec)
        try:
            spans = spans_within(store, plan.first_ms, plan.end_ms)
            missing = uncovered(spans, plan.first_ms, plan.end_ms)
            # The interval itself is a span of its own, whatever else is missing before it.
            parts = [part for first, last in missing for part in _cut_at(plan.start_ms, first, last)]
            if self._journal.get("looking_again"):
                parts += [part for part in map(interval_of, spans) if part[0] >= plan.start_ms]
            for first_ms, last_ms in parts:
                baseline = next((span for span in reversed(spans) if span.statistics.key_profiles), None)
                self._report(f"   span {ms_to_iso(first_ms)} to {ms_to_iso(last_ms)}")
                ingest(
                    spec,
                    inputs=self._sources,
                    output=str(store),
                    beam_args=self._beam_args,
                    interval=(ms_to_iso(first_ms), ms_to_iso(last_ms)),
                    baseline=baseline,
                )
                spans = spans_within(store, plan.first_ms, plan.end_ms)
        except (InputError, DatasetError) as exc:
            raise Refused(f"the data: {exc}", final=False) from exc
        return {
            "spans": [
                {
                    "name": span.path.name,
                    "sha256": span.digest,
                    "windows": span.split("train").windows,
                    "events": span.manifest.events.model_dump(),
                }
                for span in spans
            ]
        }

    def _dataset(self, spec: Spec) -> dict[str, Any]:
        """Cuts the run's splits from the spans."""
        from flows.span_dataset import cut_dataset, spans_within

        try:
            spans = spans_within(span_store(self._spec), self._plan.first_ms, self._plan.end_ms)
            found = [f"{span.path.name}@{span.digest}" for span in spans]
            cut = cut_dataset(spec, spans, self._folder / DATASET)
        except DatasetError as exc:
            raise Refused(f"the data: {exc}", final=False) from exc
        splits = {
            name: split.model_dump(include={"windows", "first_origin_ms", "last_origin_ms"})
            for name, split in cut.manifest.splits.items()
        }
        return {"splits": splits, "days": cut.days, "keys": cut.keys, "spans": found}

    def _require_data(self, spec: Spec, dataset: dict[str, Any]) -> None:
        """Checks that there is data to train, validate and gate on, and that the interval is complete."""
        assert isinstance(spec.split, DateSplit)
        for name, split in dataset["splits"].items():
            if not split["windows"]:
                raise Refused(f"the data: expected windows for the split '{name}', got none", final=False)
        first_ms, last_ms = spec.split.interval("test")
        steps = (last_ms - first_ms) // spec.grid.step - spec.window.horizon
        expected = max(steps // spec.window.stride + 1, 0) * dataset["keys"]
        found = dataset["splits"]["test"]["windows"]
        if found >= self._spec.retrain.completeness * expected:
            return
        days = [ms_to_iso(ms)[:10] for ms in range(first_ms, last_ms, _DAY_MS)]
        empty = [day for day in days if day not in dataset["days"]]
        on = f"; none on {', '.join(empty[:_DAYS_SHOWN])}" if empty else ""
        more = f" and {len(empty) - _DAYS_SHOWN} more days" if len(empty) > _DAYS_SHOWN else ""
        raise Refused(
            f"the data: expected at least {self._spec.retrain.completeness:.0%} of {expected} windows of "
            f"{dataset['keys']} keys in the interval ($.retrain.completeness), got {found}{on}{more}",
            final=False,
        )

    def _train(self, spec: Spec) -> dict[str, Any]:
        """Trains and evaluates the candidate."""
        from models.train import train, weights_to_start_from

        champion, warm_from, note = self._plan.champion, None, ""
        if spec.retrain.start == "warm" and champion is not None:
            try:
                if champion.run is None:
                    raise ModelError(f"the training run of version {champion.version} is not known")
                weights_to_start_from(spec, champion.run)
                warm_from = champion.run
            except ModelError as exc:
                note = f"started cold: {exc}"
        try:
            train(
                spec,
                data=self._folder / DATASET,
                output=self._folder / RUN,
                resume=True,
                quiet=self._quiet,
                warm_from=warm_from,
            )
        except ModelError as exc:
            if isinstance(exc, Interrupted):
                raise
            raise Refused(f"the candidate: {exc}", final=True) from exc
        return {"started_from": champion.version if champion is not None and warm_from else None, "note": note}

    def _champion(self, spec: Spec, version: int) -> dict[str, Any]:
        """Evaluates the champion on the candidate's test split."""
        from models.evaluation import evaluate_forecasts
        from models.exported import load_exported, write_evaluation

        folder = self._folder / CHAMPION
        folder.mkdir(exist_ok=True)
        try:
            exported = load_exported(self._registry.path(version))
            # The champion's own, but for what both are measured by.
            own = exported.spec.model_copy(update={"evaluation": spec.evaluation})
            evaluation = evaluate_forecasts(own, DatasetFolder(self._folder / DATASET), "test", exported.forecast)
        except ModelError as exc:
            raise Refused(f"the champion, version {version}, cannot be compared with: {exc}", final=False) from exc
        write_evaluation(folder, own, evaluation, None)
        return {"version": version}

    def _gate(self, spec: Spec) -> dict[str, Any]:
        """Decides by the thresholds."""
        from models.forms import model_section
        from models.gate import decide

        candidate, champion = self.evaluations()
        assert candidate is not None
        decisions = decide(spec.retrain.gate, model_section(spec).family, candidate, champion)
        told = [one.model_dump(mode="json") | {"text": one.text} for one in decisions]
        identity = identity_of(self._folder / RUN / "export")
        if (tombstone := self._registry.condemned().get(identity)) is not None:
            raise Refused(f"the same model was taken back before: {tombstone.reason}", final=True)
        return {"decisions": told, "reason": "passed: " + "; ".join(one.text for one in decisions)}

    def evaluations(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """The evaluations of candidate and champion, as far as there are any."""
        candidate, champion = (
            json.loads(path.read_bytes()) if path.is_file() else None
            for path in (self._folder / name / "evaluation.json" for name in (RUN, CHAMPION))
        )
        return candidate, champion

    def _canary(self, spec: Spec) -> dict[str, Any]:
        """Tries the candidate on a server."""
        run = self._folder / RUN
        try:
            place = self._folder / "canary"
            report = try_out(spec, run / "export", run, self._folder / DATASET, place, spec.retrain.canary)
        except CanaryFailed as exc:
            raise Refused(f"the canary: {exc}", final=True) from exc
        return asdict(report)

    def _push(self, reason: str) -> dict[str, Any]:
        """Publishes the candidate, if the server that is to serve it answers."""
        try:
            with ServingClient(self._spec) as client:
                client.states()
        except ServingError as exc:
            raise Refused(f"the server: {exc}", final=False) from exc
        champion = None if self._plan.champion is None else self._plan.champion.version
        try:
            version = self._registry.publish(
                self._folder / RUN, reason=reason, event="promoted", instead_of=champion, about=self.about
            )
        except ModelError as exc:
            raise Refused(str(exc), final=False) from exc
        self._report(f"   version {version}")
        return {"version": version}

    def about(self, record: Record) -> Record:
        """Adds to a record what this run knows."""
        _, champion = self.evaluations()
        dataset, training = self._journal.result("dataset"), self._journal.result("train")
        lineage = record.lineage
        if lineage is not None and dataset is not None and training is not None:
            lineage = lineage.model_copy(
                update={"spans": tuple(dataset["spans"]), "started_from": training["started_from"]}
            )
        metrics = record.metrics | ({} if champion is None else {"champion": champion["standardised"]})
        return record.model_copy(update={"interval": self._plan.interval, "lineage": lineage, "metrics": metrics})

    def _serve(self, version: int) -> dict[str, Any]:
        """Waits until the server has the version; one that it cannot load is taken away again."""
        try:
            wait_until_served(self._spec, version, self._spec.retrain.wait / 1_000)
        except ServingError as exc:
            with ServingClient(self._spec) as client:
                state = client.states().get(version)
            if state != "END" and version in self._registry.versions():
                raise
            self._registry.withdraw(version, reason=f"the server could not load it: {exc}")
            raise Refused(f"the server could not load version {version}: {exc}", final=True) from exc
        return {"address": self._spec.serving.address}


def _cut_at(cut_ms: int, first_ms: int, last_ms: int) -> list[tuple[int, int]]:
    """An interval, in two where a time is within it."""
    if first_ms < cut_ms < last_ms:
        return [(first_ms, cut_ms), (cut_ms, last_ms)]
    return [(first_ms, last_ms)]
