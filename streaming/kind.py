"""What the loop does not know: what it makes of the records.

Predictions of series (`streaming.series`) or of texts (`streaming.texts`), or how good predictions were
(`streaming.accuracy.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event as StopFlag
from typing import Any, Protocol

from kafka import KafkaConsumer, TopicPartition

from schemas.prediction import WindowPrediction
from schemas.text_prediction import TextPrediction
from streaming.beside import Beside
from streaming.checkpoint import Checkpoint
from streaming.commits import Outbox
from streaming.input_topic import Start
from streaming.restore import Reading
from streaming.serving_client import ServingClient

SERVING_PATIENCE_S = 2.0
"""How long a request is tried again before the partitions are paused until the model server is back."""


class Kind(Protocol):
    """Takes partitions over, and writes what their stages yield. Partitions and stages are its own."""

    def checkpoints(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, Checkpoint], set[TopicPartition]]:
        """Where each of some partitions goes on, and which of them the group has committed nothing of yet."""
        ...

    def reading(self, tp: TopicPartition, checkpoint: Checkpoint) -> Reading:
        """What is to be read so that the partition is as it was at its checkpoint."""
        ...

    def forget(self, partitions: Iterable[TopicPartition], /) -> None:
        """What was made of the records of some partitions may not have been written, and will be made again."""
        ...

    def points(
        self, outbox: Outbox, stages: Mapping[TopicPartition, Any], partitions: Mapping[TopicPartition, Any]
    ) -> Mapping[TopicPartition, Checkpoint]:
        """Where the partitions will stand once their stages are applied; sends what that needs, such as a changelog.

        It may be asked beside the work, on another thread, and once more for the same stages.
        """
        ...

    def write(
        self,
        outbox: Outbox,
        outputs: Sequence[Any],
        stages: Mapping[TopicPartition, Any],
        partitions: Mapping[TopicPartition, Any],
        now_ms: int,
    ) -> None:
        """Sends all that the stages yield."""
        ...


class PredictingKind(Kind, Protocol):
    """A kind whose stages are predicted from."""

    def predict(self, stages: Mapping[TopicPartition, Any]) -> Sequence[WindowPrediction | TextPrediction]:
        """Predicts what the stages yield; what the model does not take goes to their dead letters.

        Raises:
          ServingError: the server stayed away, or refuses us.
        """
        ...

    def provisional(
        self,
        partitions: Mapping[TopicPartition, Any],
        stages: dict[TopicPartition, Any],
        end: Callable[[TopicPartition], int | None],
        /,
    ) -> Sequence[WindowPrediction | TextPrediction]:
        """What the wall clock asks for; partitions that have some get a stage, to be committed with it.

        Args:
          partitions: those that are live.
          stages: of the batch.
          end: where a partition stands, None while it is not caught up.
        """
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What every kind works with.

    `start` is where to begin when the group has committed nothing; `stopping` ends waiting for the model; `on_answer`
    is told of each request its rows and milliseconds; `report`, in words, what a person should know; `beside` is what
    is asked beside the version that is to answer, if anything.
    """

    consumer: KafkaConsumer
    client: ServingClient
    start: Start
    stopping: StopFlag
    on_answer: Callable[[int, float], None]
    report: Callable[[str], None]
    beside: Beside | None = None
