"""The demo of texts: the whole path on real documents, with real parts, and an honest account of it at the end.

    files ─ingest─▶ dataset ─train─▶ run ─push─▶ model version ─▶ model server
    test split ─replay─▶ events topic ─stream─▶ predictions topic ─▶ read back, and compared with what is true

Kafka, the model server and the consumer are processes of their own, on free ports; all of them are gone afterwards.
What was written stays in the output folder.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from flows.dataset_windows import read_tfrecords
from flows.demo_parts import Steps, demo_folder, start_kafka, stream_to_end
from flows.replay import ReplaySummary, replay_texts
from flows.verify import read_predictions, read_topic
from schemas.text_dataset import TEXT, TEXT_LABEL, DocumentCounts, TextDatasetFolder
from schemas.text_spec import TextSpec, load_text_spec
from streaming.serving_protos import Example


@dataclass(frozen=True, slots=True)
class TextDemoResult:
    """What the demo did and found; accuracies are of the test split."""

    documents: dict[str, int]
    """By split."""
    classes: int
    ingested: DocumentCounts
    test_accuracy: float
    """As the evaluation of the training run measured it."""
    majority_accuracy: float
    replayed: ReplaySummary
    stream: dict[str, int]
    predictions_read: int
    predictions_doubled: int
    live_right: int
    """Predictions whose label is that of the document."""
    seconds: dict[str, float]

    @property
    def live_accuracy(self) -> float:
        """The share of the documents whose live prediction is right."""
        return self.live_right / max(self.replayed.sent, 1)

    @property
    def holds(self) -> bool:
        """Whether everything that the demo promises is so."""
        return (
            self.test_accuracy > self.majority_accuracy
            and abs(self.live_accuracy - self.test_accuracy) < 1e-9
            and self.replayed.sent == self.documents["test"] == self.stream["in"]
            and self.stream["in"] == self.stream["used"] + self.stream["dead"]
            and self.stream["used"] == self.stream["predictions"] == self.predictions_read
            and self.predictions_doubled == 0
        )

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        counts = {"ingested": self.ingested.model_dump(mode="json"), "live_accuracy": self.live_accuracy}
        return asdict(self) | counts | {"holds": self.holds}

    def lines(self) -> list[str]:
        """The result as a table."""
        rows = [
            ("rows", f"{self.ingested.rows} = used {self.ingested.used} + dead {self.ingested.dead}"),
            ("documents", ", ".join(f"{split} {count}" for split, count in self.documents.items())),
            ("  classes", f"{self.classes}"),
            ("test accuracy", f"{self.test_accuracy:.2%} (the most frequent class {self.majority_accuracy:.2%})"),
            ("events", f"in {self.stream['in']} = used {self.stream['used']} + dead {self.stream['dead']}"),
            ("predictions", f"{self.predictions_read} read back, {self.predictions_doubled} of them twice"),
            ("  expected", f"{self.documents['test']}"),
            ("live accuracy", f"{self.live_accuracy:.2%}, {self.live_right} right"),
            ("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())),
        ]
        text = [f"{name:<18} {value}" for name, value in rows]
        return [*text, "everything holds" if self.holds else "NOT everything holds"]


def run_text_demo(
    spec_file: Path,
    inputs: Sequence[str],
    *,
    output: Path,
    report: Callable[[str], None] = lambda _: None,
) -> TextDemoResult:
    """Runs the demo; what an earlier one left in `output` is replaced.

    Args:
      spec_file: a spec of texts.
      inputs: its files.
      output: a folder for the dataset, the run, the models and Kafka's data.
      report: is told, in words, what happens.
    Raises:
      TidegaugeError: a step failed.
    """
    with demo_folder(output) as environment:
        spec = load_text_spec(spec_file, os.environ | environment)
        return _run(spec, spec_file, inputs, output, environment, report)


def _run(
    spec: TextSpec,
    spec_file: Path,
    inputs: Sequence[str],
    output: Path,
    environment: Mapping[str, str],
    report: Callable[[str], None],
) -> TextDemoResult:
    from flows.local_stack import start_model_server
    from models.registry import push
    from models.text.train import train_texts
    from pipelines.text_ingest import ingest_texts

    steps = Steps(report)
    with steps("Kafka"):
        start_kafka(spec.kafka, output / "state", report)
    with steps("ingest"):
        manifest = ingest_texts(spec, inputs=inputs, output=str(output / "dataset"))
    with steps("train"):
        trained = train_texts(spec, data=output / "dataset", output=output / "run")
    with steps("push and serve"):
        push(output / "run", to=output / "models", name=spec.model_name)
        start_model_server(spec, output / "state")
    with steps("replay"):
        _write_documents(spec, TextDatasetFolder(output / "dataset"), "test", output / "test.jsonl")
        replayed = replay_texts(spec, [str(output / "test.jsonl")], report=report)
    with steps("stream"):
        counts = stream_to_end(spec_file, environment)
    with steps("read back"):
        predictions = list(read_predictions(spec, spec.topics.predictions.name))
        origins = Counter(prediction["origin"] for prediction in predictions)
        events = read_topic(spec, spec.topics.input.name)
        actual = {f"{r.topic}[{r.partition}]@{r.offset}": orjson.loads(r.value)[spec.stream.label] for r in events}
        right = sum(actual[prediction["origin"]] == prediction["label"] for prediction in predictions)
    return TextDemoResult(
        documents={name: split.documents for name, split in manifest.splits.items()},
        classes=len(manifest.classes),
        ingested=manifest.documents,
        test_accuracy=trained.accuracy,
        majority_accuracy=trained.accuracy_majority,
        replayed=replayed,
        stream=counts,
        predictions_read=len(predictions),
        predictions_doubled=sum(count - 1 for count in origins.values()),
        live_right=right,
        seconds=steps.seconds,
    )


def _write_documents(spec: TextSpec, folder: TextDatasetFolder, split: str, path: Path) -> None:
    """The documents of a split as JSON lines."""
    with path.open("wb") as file:
        for shard in folder.shard_paths(split):
            for record in read_tfrecords(shard):
                feature = Example.FromString(record).features.feature
                text = feature[TEXT].bytes_list.value[0].decode()
                label = folder.manifest.classes[feature[TEXT_LABEL].int64_list.value[0]]
                file.write(orjson.dumps({spec.stream.text: text, spec.stream.label: label}) + b"\n")
