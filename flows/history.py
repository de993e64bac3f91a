"""A file's events in the order in which a stream would have brought them: by event time, across keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.chunks import positions
from pipelines.sources.event_batch import DeadRow
from pipelines.sources.files import match_files
from pipelines.sources.inputs import KAFKA, Inputs
from schemas.errors import InputError
from schemas.event import EventReader
from schemas.spec import Spec
from schemas.units import ms_to_iso


@dataclass(frozen=True, slots=True)
class History:
    """Events sorted by (time, source position), which is the order that `late: include` means for files.

    `key` text (event,), `time_ms` and `position` int64 (event,), `values` float64 (event, carried feature) with NaN
    where missing; `dead` are the rows that are no events.
    """

    key: NDArray[np.object_]
    time_ms: NDArray[np.int64]
    position: NDArray[np.int64]
    values: NDArray[np.float64]
    dead: tuple[DeadRow, ...]

    def __len__(self) -> int:
        return len(self.time_ms)

    @classmethod
    def read(cls, spec: Spec, inputs: Sequence[str]) -> History:
        """Reads files or patterns of files.

        Raises:
          InputError: a file is missing, or is none with the spec's fields.
        """
        if any(pattern.startswith(KAFKA) for pattern in inputs):
            raise InputError(
                "expected files, got a topic: this reads history in the order of event times, not of arrival"
            )
        source = Inputs(spec)
        none = np.empty(0, np.int64)
        keys, times, places = [np.empty(0, object)], [none], [none]
        values: list[NDArray[np.floating]] = [np.empty((0, len(EventReader(spec).fields)))]
        dead: list[DeadRow] = []
        for file in match_files(inputs):
            for piece in source.pieces(file):
                for batch in source.read(piece):
                    keys.append(np.array(batch.events.keys.to_pylist(), dtype=object))
                    times.append(batch.events.time_ms)
                    places.append(positions(file.index, batch.events.row))
                    values.append(batch.events.values)
                    dead += [row for _, row in batch.dead]
        time_ms, position = np.concatenate(times), np.concatenate(places)
        order = np.lexsort((position, time_ms))
        return cls(
            np.concatenate(keys)[order], time_ms[order], position[order], np.concatenate(values)[order], tuple(dead)
        )

    def payloads(self, spec: Spec) -> Iterator[bytes]:
        """Each event as the JSON that the live path reads; numbers keep their exact value."""
        reader = EventReader(spec)
        key_field, time_field = reader.key_field, reader.time_field
        fields = [(index, field) for index, field in enumerate(reader.fields) if field.table is None]
        write_time = _TIME_WRITERS[spec.stream.time.format]
        for key, time_ms, row in zip(self.key, self.time_ms.tolist(), self.values.tolist(), strict=True):
            values: dict[str, Any] = {}
            for index, field in fields:
                number = field.write_json(row[index])
                if field.index is None:
                    values[field.name] = number
                else:
                    values.setdefault(field.name, [None] * (field.length or 0))[field.index] = number
            yield orjson.dumps({key_field: key, time_field: write_time(time_ms), **values})


def _epoch_s(time_ms: int) -> Any:
    return time_ms // 1_000 if time_ms % 1_000 == 0 else time_ms / 1_000


_TIME_WRITERS: dict[str, Any] = {"iso8601": ms_to_iso, "epoch_ms": int, "epoch_s": _epoch_s}
