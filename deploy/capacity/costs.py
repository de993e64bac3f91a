"""What the live path costs on a machine, as `make bench-capacity` measures it: a file that is read and written."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from schemas.documents import parse_as, read_document
from schemas.section import Section

SHIPPED = "two_cores.json"


class ConsumerCosts(Section):
    """Of one consumer, in microseconds of its time, the broker's part included and the model server's left out."""

    turn_us: float
    """A turn of its loop: poll, commit, and what does not depend on the batch."""
    key_us: float
    """A key that has events in the batch."""
    event_us: float
    number_us: float
    """A number of an event."""
    window_us: float
    cell_us: float
    """A step of a feature in a window."""
    output_us: float
    """A number of a prediction."""
    replay_us: float
    """An event that is read again after a crash."""
    process_bytes: float
    """Resident memory without keys."""
    key_bytes: float
    """Of a key beside its window."""


class ModelCosts(Section):
    """Of the model server, in microseconds of one core."""

    request_us: float
    step_us: float
    """A step of the past of a window."""


class RecordBytes(Section):
    """Sizes of records before compression, in bytes."""

    event: float
    number: float
    """A number of an event."""
    prediction: float
    output: float
    """A number of a prediction."""


class Costs(Section):
    """What was measured, and where."""

    machine: str
    cores: int
    measured: str
    """The day, as YYYY-MM-DD."""
    consumer: ConsumerCosts
    models: dict[str, ModelCosts]
    """By family, each with its defaults."""
    bytes: RecordBytes
    ingest_us: float
    """An event of a batch ingest, on one core."""


def load_costs(path: Path | None = None) -> Costs:
    """Reads a file of costs; the shipped one when left out.

    Raises:
      SpecError: it cannot be read, or is no such file.
    """
    if path is None:
        shipped = json.loads((files("deploy.capacity") / SHIPPED).read_text())
        return parse_as(Costs, shipped, where=SHIPPED)
    return parse_as(Costs, read_document(path, {}), where=str(path))
