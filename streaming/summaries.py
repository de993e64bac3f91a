"""Windows of tens of thousands of steps, predicted from summaries of their chunks that are kept between events.

Where the spec's model is cacheable (docs/models.md), the summary of a chunk that a window has whole is the same in the
windows after it. So only the chunks that are new are encoded (signature `encode_chunk`), and the windows are predicted
from the summaries of all (`predict_from_summaries`); what comes of it is what the whole windows would give, to 1e-5.

What is kept follows from the windows, so it is no part of any commit: it may be dropped at any time, and is made again
with the next window of its key. It is kept by key and version of the model.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Event as StopFlag
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.long_context import ChunkLayout, Chunks, Summaries
from schemas.errors import ServingRefused
from schemas.model_spec import HierarchicalModel
from schemas.spec import Spec
from streaming.model_client import Answer, Arrays, SignatureClient, Waiting
from streaming.requests import OnRefused, Requests, Rows

logger = logging.getLogger(__name__)

MOST_BYTES = 256 * 2**20
"""Of summaries that are kept. Those of a key take a hundredth to a tenth of what its window does."""
ATTEMPTS = 3
"""So often all answers of a batch are asked of one version, while another one takes its place."""


class LongWindows(Rows, Protocol):
    """Windows of which chunks can be cut; arrays have the axes (window, time, feature)."""

    @property
    def keys(self) -> list[str]:
        """Each window's key."""
        ...

    @property
    def origin_step(self) -> NDArray[np.int64]:
        """Each window's origin."""
        ...

    @property
    def values(self) -> NDArray[np.float32]:
        """NaN where masked."""
        ...

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Which cells were."""
        ...


W = TypeVar("W", bound=LongWindows)


class SummaryStore:
    """The summaries of each key by each version, as many as were needed last; safe to use from several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes, self._nbytes = most_bytes, 0
        self._kept: OrderedDict[tuple[int, str], Summaries] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        """Of how many keys and versions there are any."""
        return len(self._kept)

    def get(self, version: int | None, key: str) -> Summaries:
        """What is kept of a key by a version, if anything."""
        with self._lock:
            return (version and self._kept.get((version, key))) or Summaries.none()

    def put(self, version: int, key: str, summaries: Summaries) -> None:
        """Keeps summaries in the place of those before, and drops others that have not been needed for longest."""
        with self._lock:
            self._drop((version, key))
            self._kept[version, key] = summaries
            self._nbytes += summaries.nbytes
            while self._nbytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, place: tuple[int, str]) -> None:
        if (gone := self._kept.pop(place, None)) is not None:
            self._nbytes -= gone.nbytes


class FromSummaries(Generic[W]):
    """Asks for windows by way of summaries, or for whole windows where that does not do.

    It does not where the model refuses a chunk or a window, which is then looked for among the whole ones; and of a
    version that lacks the signatures.

    Args:
      spec: the stream.
      options: its model, which is cacheable.
      store: what is kept.
      client: the model.
      patience_s, stopping, on_answer: as for `Requests`; chunks are not told of.
    """

    def __init__(
        self,
        spec: Spec,
        options: HierarchicalModel,
        store: SummaryStore,
        client: SignatureClient,
        *,
        patience_s: float = 0.0,
        stopping: StopFlag | None = None,
        on_answer: Callable[[int, float], None] = lambda _rows, _latency_ms: None,
    ) -> None:
        self._layout = ChunkLayout.of(options, spec.window.past)
        self._recent, self._has_key = min(options.recent, spec.window.past), options.scaling == "per_key"
        self._client, self._store = client, store
        how: dict[str, Any] = {"patience_s": patience_s, "stopping": stopping}
        serving = spec.serving
        self._whole: Requests[W] = Requests(serving, client, on_answer=on_answer, **how)
        self._encode: Requests[_ChunkRows] = Requests(serving, _Signature(client, "encode_chunk"), **how)
        self._predict: Requests[_SummarisedRows[W]] = Requests(
            serving, _Signature(client, "predict_from_summaries"), on_answer=on_answer, **how
        )

    def ask(self, rows: W, on_refused: OnRefused[W] | None = None) -> Iterator[tuple[W, Answer]]:
        """The answers to all windows, in their order; see `Requests.ask`."""
        try:
            answers = self._by_summaries(rows)
        except ServingRefused as refusal:
            logger.info("whole windows are asked for: %s", refusal)
            answers = None
        yield from self._whole.ask(rows, on_refused) if answers is None else answers

    def _by_summaries(self, rows: W) -> list[tuple[W, Answer]] | None:
        """The answers, all of one version; None where there was none that gave them all."""
        for _ in range(ATTEMPTS):
            encoded = self._encoded(rows)
            if encoded is None:
                continue
            summarised, version, encoding_ms = encoded
            answers = list(self._predict.ask(summarised))
            if all(answer.version == version for _, answer in answers):
                return [
                    (part.windows, replace(answer, latency_ms=answer.latency_ms + encoding_ms))
                    for part, answer in answers
                ]
        return None

    def _encoded(self, rows: W) -> tuple[_SummarisedRows[W], int, float] | None:
        """The windows with their summaries, the version that made them, and the milliseconds that it took.

        None where the version changed meanwhile, so that what is kept is not of the one that answers.
        """
        layout, version = self._layout, self._client.version
        plans = [
            (key, place, kept, kept.missing(layout, rows.origin_step[place]))
            for key, place in _places(rows.keys)
            for kept in [self._store.get(version, key)]
        ]
        chunks = Chunks(
            np.concatenate([place[missing.window] for _, place, _, missing in plans]),
            np.concatenate([missing.number for *_, missing in plans]),
        )
        if not len(chunks):  # the same windows once more, and nobody to say which version answers now
            return None
        answers = [answer for _, answer in self._encode.ask(self._cut(rows, chunks))]
        [by, *others] = {answer.version for answer in answers}
        if others or (by != version and any(len(kept) for _, _, kept, _ in plans)):
            return None
        made = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in ("summary", "present")}
        shape = len(rows), layout.slots
        summaries = np.zeros((*shape, made["summary"].shape[1]), np.float32)
        present = np.zeros(shape, np.bool_)
        start = 0
        for key, place, kept, missing in plans:
            its = slice(start, start := start + len(missing))
            summaries[place], present[place], kept_now = kept.join(
                layout, rows.origin_step[place], missing, made["summary"][its], made["present"][its]
            )
            self._store.put(by, key, kept_now)
        return (
            _SummarisedRows(rows, summaries, present, self._recent),
            by,
            max(answer.latency_ms for answer in answers),
        )

    def _cut(self, rows: W, chunks: Chunks) -> _ChunkRows:
        values, observed = self._layout.cut(chunks, rows.origin_step, rows.values, rows.observed)
        keys = np.array([key.encode() for key in rows.keys], dtype=object) if self._has_key else None
        return _ChunkRows(values, observed, None if keys is None else keys[chunks.window])


def _places(keys: list[str]) -> list[tuple[str, NDArray[np.int64]]]:
    """Each key with the places where it stands."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key].append(place)
    return [(key, np.array(its)) for key, its in places.items()]


class _Signature:
    """Asks one signature of a model."""

    def __init__(self, client: SignatureClient, signature: str) -> None:
        self.model, self._client, self._signature = client.model, client, signature

    def ask(self, inputs: Arrays) -> Waiting:
        return self._client.ask_signature(self._signature, inputs)


@dataclass(frozen=True, slots=True)
class _ChunkRows:
    """Chunks to be encoded."""

    values: NDArray[np.float32]
    observed: NDArray[np.bool_]
    key: NDArray[np.object_] | None

    def __len__(self) -> int:
        return len(self.values)

    def part(self, rows: slice) -> _ChunkRows:
        return _ChunkRows(self.values[rows], self.observed[rows], None if self.key is None else self.key[rows])

    def head(self, start: int, most: int) -> _ChunkRows:
        return self.part(slice(start, start + most))

    def plain(self) -> _ChunkRows:
        row = self.part(slice(1))
        return replace(row, values=np.zeros_like(row.values), observed=np.ones_like(row.observed))

    def inputs(self) -> Arrays:
        inputs: Arrays = {"chunk_values": self.values, "chunk_observed": self.observed}
        return inputs if self.key is None else {**inputs, "key": self.key}


@dataclass(frozen=True, slots=True)
class _SummarisedRows(Generic[W]):
    """Windows with the summaries of their chunks."""

    windows: W
    summaries: NDArray[np.float32]
    present: NDArray[np.bool_]
    recent: int

    def __len__(self) -> int:
        return len(self.windows)

    def part(self, rows: slice) -> _SummarisedRows[W]:
        return _SummarisedRows(self.windows.part(rows), self.summaries[rows], self.present[rows], self.recent)

    def head(self, start: int, most: int) -> _SummarisedRows[W]:
        return self.part(slice(start, start + most))

    def plain(self) -> _SummarisedRows[W]:
        row = self.part(slice(1))
        return replace(row, windows=row.windows.plain(), summaries=np.zeros_like(row.summaries))

    def inputs(self) -> Arrays:
        inputs = dict(self.windows.inputs())
        del inputs["first_step"]
        recent = {name: inputs[name][:, -self.recent :] for name in ("past_values", "past_observed")}
        return inputs | recent | {"summaries": self.summaries, "present": self.present}
