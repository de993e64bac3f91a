"""Ingest: event files to a dataset of windows, as a Beam job.

    files ─read─▶ chunks of events ─by partition of the keys─▶ grid, windows, records ─by shard─▶ files
            └▶ dead letters                                      └▶ reports of keys ─▶ manifest and statistics

Chunks and records lie in spill files; what travels are references to them, so a job's memory does not grow with its
input. A worker holds one partition at a time (`pipelines.chunks.PARTITIONS`). Every file has the same bytes on every
run and runner.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import orjson

from pipelines.beam_job import run_pipeline
from pipelines.dataset_writer import building, complete, span_place
from pipelines.profiles import with_profiles
from pipelines.read_events import DEAD_LETTERS, CutFn, ReadEventsFn
from pipelines.reports import (
    REPORTS,
    FailureReport,
    FileReport,
    KeyReport,
    Report,
    ShardReport,
    SketchReport,
    decode_reports,
)
from pipelines.sink import SpilledRecord, WriteLinesFn, WriteReportsFn, WriteShardFn, shard_name, write_shard
from pipelines.sources.files import InputFile
from pipelines.sources.inputs import KAFKA, match_inputs
from pipelines.spans import Span
from pipelines.spill import Extent
from pipelines.splits import Splitter
from pipelines.statistics import dataset_statistics
from pipelines.validation import failure_lines, validate
from pipelines.window_partitions import WindowPartitionFn
from schemas.dataset import DatasetFolder, EventCounts, Manifest, Shard, Split, Statistics
from schemas.errors import InputError
from schemas.spec import Spec
from schemas.units import ms_to_iso

DEAD_LETTERS_FOLDER = "dead-letters"

_REPORTS_FILE = "reports.jsonl"
_SPILL_FOLDER = "spill"
_LOGGER = logging.getLogger(__name__)


def ingest(
    spec: Spec,
    *,
    inputs: Sequence[str],
    output: str,
    beam_args: Sequence[str] = (),
    all_origins: bool = False,
    overwrite: bool = False,
    baseline: DatasetFolder | None = None,
    interval: tuple[str, str] | None = None,
) -> Manifest:
    """Reads events from files and writes a dataset.

    Bad rows go to `dead-letters/` in the dataset, a JSON line each, and are counted. A split without a window is a
    logged warning; without a window to train on there is no dataset.

    Args:
      spec: the stream.
      inputs: paths, folders and glob patterns of files in the formats of `$.source.format`, plain, gzip or zstd; or
        ranges of topics (`pipelines.sources.kafka_source`). Of two events with the same key and time the first counts,
        files in this order.
      output: the dataset's folder. It is there, whole, when the job has succeeded, and untouched otherwise.
      beam_args: Beam's options; the runner is the FnApiRunner in this process unless they name another.
      all_origins: one split `all` with every window, whether or not its horizon was observed; no `split` is needed.
      overwrite: replace the dataset that is there.
      baseline: an earlier dataset to compare with, by the limits of `spec.checks`.
      interval: start and end (exclusive), ISO 8601. The windows whose horizon ends in it become a span of the dataset,
        in place of an earlier one of the same interval; the dataset's other spans stay. Of a topic that is named
        without a range only what can matter is read: record times must not be before their event times.
    Returns:
      The dataset's manifest, or the span's.
    Raises:
      SpecError: the spec says no splits.
      InputError: an input is missing or cannot be used, has too many dead rows, has no window to train on, or is beyond
        a limit of `spec.checks`.
      DatasetError: there is a dataset at `output` already, or something else.
    """
    splits = Splitter(spec, all_origins=all_origins).names
    span = None if interval is None else Span.of(spec, interval)
    files = match_inputs(spec, inputs if span is None else [_ranged(spec, pattern, span) for pattern in inputs])
    place = Path(output) if span is None else span_place(Path(output), span)
    with building(place, overwrite=overwrite or span is not None) as folder:
        run_pipeline(
            lambda pipeline: build_job(pipeline, spec, files, folder.absolute(), all_origins=all_origins, span=span),
            beam_args,
        )
        reports = _take_reports(folder)
        shutil.rmtree(folder / _SPILL_FOLDER, ignore_errors=True)
        _require_usable(reports)
        manifest = _manifest(spec, files, splits, reports, folder, span)
        for line in _shortcomings(manifest) if span is None else ():
            _LOGGER.warning("%s", line)
        statistics = _statistics(spec, reports)
        validation = validate(spec, statistics, baseline)
        if validation.failures:
            raise InputError("\n".join(f"{output}: not published: {line}" for line in failure_lines(validation)))
        complete(folder, spec, manifest, statistics, validation)
    return manifest


def _ranged(spec: Spec, pattern: str, span: Span) -> str:
    """A topic's name, with where to begin reading for a span: what came earlier can be late for no step of it."""
    if not pattern.startswith(KAFKA) or "?" in pattern:
        return pattern
    start_ms = span.first_ms - spec.grid.max_disorder - spec.grid.max_skew
    return f"{pattern}?start={ms_to_iso(max(start_ms, 0))}"


def build_job(
    pipeline: beam.Pipeline,
    spec: Spec,
    files: Sequence[InputFile],
    folder: Path,
    *,
    all_origins: bool = False,
    span: Span | None = None,
) -> None:
    """Applies the transforms of the ingest; their results are files in `folder`, which all workers must see."""
    spill = str(folder / _SPILL_FOLDER)
    cut = (
        pipeline
        | "Files" >> beam.Create(files, reshuffle=True)
        | "Cut" >> beam.ParDo(CutFn(spec)).with_outputs(REPORTS, main="pieces")
    )
    read = (
        cut.pieces
        | "SpreadPieces" >> beam.Reshuffle()
        | "ReadEvents"
        >> beam.ParDo(ReadEventsFn(spec, spill=spill, span=span)).with_outputs(DEAD_LETTERS, REPORTS, main="chunks")
    )
    _ = (
        read[DEAD_LETTERS]
        | "TypedDeadLetters" >> beam.Map(lambda piece: piece).with_output_types(tuple[str, tuple[int, Extent]])
        | "GroupDeadLetters" >> beam.GroupByKey()
        | "WriteDeadLetters" >> beam.ParDo(WriteLinesFn(str(folder / DEAD_LETTERS_FOLDER), spill))
    )
    windowed = (
        read.chunks
        | "TypedChunks" >> beam.Map(lambda chunk: chunk).with_output_types(tuple[int, Extent])
        | "GroupPartitions" >> beam.GroupByKey()
        | "WindowPartitions"
        >> beam.ParDo(WindowPartitionFn(spec, all_origins=all_origins, spill=spill, span=span)).with_outputs(
            REPORTS, main="records"
        )
    )
    shards = (
        windowed.records
        | "TypedRecords" >> beam.Map(lambda record: record).with_output_types(tuple[str, SpilledRecord])
        | "GroupShards" >> beam.GroupByKey()
        | "WriteShards" >> beam.ParDo(WriteShardFn(spec, str(folder), spill))
    )
    _ = (
        (cut[REPORTS], read[REPORTS], windowed[REPORTS], shards)
        | "Reports" >> beam.Flatten()
        | "OneGroup" >> beam.Map(lambda line: (0, line)).with_output_types(tuple[int, bytes])
        | "GroupReports" >> beam.GroupByKey()
        | "WriteReports" >> beam.ParDo(WriteReportsFn(str(folder / _REPORTS_FILE)))
    )


def _take_reports(folder: Path) -> list[Report]:
    path = folder / _REPORTS_FILE
    reports = decode_reports(path.read_bytes().splitlines())
    path.unlink()
    return reports


def _require_usable(reports: Sequence[Report]) -> None:
    failures = sorted((report.file, report.message) for report in reports if isinstance(report, FailureReport))
    if failures:
        raise InputError("\n".join(message for _, message in failures))


def _keys(reports: Sequence[Report]) -> list[KeyReport]:
    return sorted((report for report in reports if isinstance(report, KeyReport)), key=lambda report: report.key)


def _manifest(
    spec: Spec,
    files: Sequence[InputFile],
    splits: Sequence[str],
    reports: Sequence[Report],
    folder: Path,
    span: Span | None,
) -> Manifest:
    events = _event_counts(reports)
    if not events.used and span is None:  # a span may be of an outage
        reasons = ", ".join(f"{count} '{reason}'" for reason, count in events.dead_by_reason.items())
        rows = f"{events.rows} dead rows ({reasons})" if events.rows else "no row"
        raise InputError(f"{_names(files)}: expected events, got {rows}")
    _require_few_dead(spec, files, events, folder)
    written = {report.shard.path: report.shard for report in reports if isinstance(report, ShardReport)}
    manifest = Manifest(
        layout=spec.dataset.layout,
        spec=spec.semantic_document(),
        fingerprint=spec.fingerprint,
        window_fingerprint=spec.window_fingerprint,
        inputs=tuple(file.name for file in files),
        events=events,
        splits={name: _split(spec, name, _keys(reports), written, folder) for name in splits},
    )
    if span is not None:
        return manifest.model_copy(update={"interval_ms": (span.start_ms, span.end_ms)})
    if not manifest.splits[splits[0]].windows:
        raise InputError(f"{_names(files)}: {_no_window(manifest, splits[0])}")
    return manifest


def _require_few_dead(spec: Spec, files: Sequence[InputFile], events: EventCounts, folder: Path) -> None:
    """Checks the share of dead rows; the message shows the first, since the dead letters go with the failed job."""
    limit = spec.source.max_dead
    if events.dead <= limit * events.rows:
        return
    first = min((folder / DEAD_LETTERS_FOLDER).iterdir())
    with first.open("rb") as file:
        letter = orjson.loads(file.readline())
    reasons = ", ".join(f"{count} '{reason}'" for reason, count in events.dead_by_reason.items())
    raise InputError(
        f"{_names(files)}: expected at most {limit:.3%} dead rows ($.source.max_dead), got {events.dead} of "
        f"{events.rows} ({reasons}); the first: {letter['source']}: {letter['detail']}"
    )


def _statistics(spec: Spec, reports: Sequence[Report]) -> Statistics:
    keys = _keys(reports)
    moments = {report.key: report.moments for report in keys}
    profiles = {report.key: report.profile for report in keys}
    sketches = [report.sketches for report in reports if isinstance(report, SketchReport)]
    names = [feature.name for feature in spec.stream.features]
    return with_profiles(dataset_statistics(names, moments), profiles, sketches)


def _event_counts(reports: Sequence[Report]) -> EventCounts:
    rows, reasons = 0, Counter[str]()
    for report in reports:
        if isinstance(report, FileReport):
            rows += report.rows
            reasons.update(report.dead_by_reason)
    keys = _keys(reports)
    counts = EventCounts(
        rows=rows,
        used=sum(report.profile.used for report in keys),
        duplicate=sum(report.profile.duplicate for report in keys),
        late=sum(report.profile.late for report in keys),
        dead=reasons.total(),
        dead_by_reason=dict(sorted(reasons.items())),
    )
    if rows != counts.used + counts.duplicate + counts.late + counts.dead:
        raise RuntimeError(f"rows were lost or counted twice: {counts}")
    return counts


def _split(spec: Spec, name: str, keys: Sequence[KeyReport], written: dict[str, Shard], folder: Path) -> Split:
    of_keys = {report.key: report.splits[name] for report in keys if name in report.splits}
    names = [shard_name(name, index, spec.dataset.shards) for index in range(spec.dataset.shards)]

    def origin_ms(step: int | None) -> int | None:
        return None if step is None else step * spec.grid.step + spec.grid.offset

    return Split(
        windows=sum(part.windows for part in of_keys.values()),
        windows_by_key={key: part.windows for key, part in of_keys.items()},
        first_origin_ms=origin_ms(min((part.first_origin_step for part in of_keys.values()), default=None)),
        last_origin_ms=origin_ms(max((part.last_origin_step for part in of_keys.values()), default=None)),
        shards=tuple(written.get(path) or write_shard(folder, path, (), "") for path in names),
    )


def _shortcomings(manifest: Manifest) -> list[str]:
    return [_no_window(manifest, name) for name, split in manifest.splits.items() if not split.windows]


def _no_window(manifest: Manifest, split: str) -> str:
    return f"expected windows in the split '{split}', got none from {manifest.events.used} events"


def _names(files: Sequence[InputFile]) -> str:
    return files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
