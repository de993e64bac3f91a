"""The demo of series: the whole path on real data, with real parts, and an honest account of it at the end.

    files ─ingest─▶ dataset ─train─▶ run ─push─▶ model version ─▶ model server
    files ─replay─▶ events topic ─stream─▶ predictions topic ─▶ read back, scored, checked against the dataset

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

from flows.accuracy import Scores, score_predictions
from flows.demo_parts import Steps, demo_folder, start_kafka, stream_to_end
from flows.replay import ReplaySummary, replay
from flows.verify import Parity, read_predictions, verify_dataset, verify_predictions
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError
from schemas.prediction import prediction_id
from schemas.spec import Spec, load_spec


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo did and found. Errors are in the target's unit, on the test split unless it says otherwise."""

    windows: dict[str, dict[str, int]]
    """Windows by split and key."""
    target: str
    test_mae: float
    test_mae_persistence: float
    test_skill: float
    replayed: ReplaySummary
    stream: dict[str, int]
    predictions_read: int
    predictions_doubled: int
    live: Scores
    inputs_parity: Parity
    predictions_parity: Parity
    seconds: dict[str, float]
    picture: str

    @property
    def events_add_up(self) -> bool:
        """Whether events in = used + duplicate + late + dead, and nothing that was sent is missing."""
        kinds = sum(self.stream[name] for name in ("used", "duplicate", "late", "dead"))
        return self.replayed.sent == self.stream["in"] == kinds

    @property
    def holds(self) -> bool:
        """Whether everything that the demo promises is so."""
        return (
            self.test_skill > 0
            and self.live.skill > 0
            and self.events_add_up
            and self.predictions_doubled == 0
            and self.predictions_read == self.stream["predictions"] == self.inputs_parity.windows
            and self.inputs_parity.holds
            and self.predictions_parity.holds
        )

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return asdict(self) | {"events_add_up": self.events_add_up, "holds": self.holds}

    def lines(self) -> list[str]:
        """The result as a table."""
        keys = sorted({key for by_key in self.windows.values() for key in by_key})
        parts = " + ".join(f"{name} {self.stream[name]}" for name in ("used", "duplicate", "late", "dead"))
        rows = [
            ("windows", "".join(f"{key:>9}" for key in keys) + f"{'all':>9}"),
            *(
                (f"  {split}", "".join(f"{by_key.get(key, 0):>9}" for key in keys) + f"{sum(by_key.values()):>9}")
                for split, by_key in self.windows.items()
            ),
            (f"test MAE, {self.target}", f"{self.test_mae:.3f} (persistence {self.test_mae_persistence:.3f})"),
            ("  skill", f"{self.test_skill:+.1%} against persistence"),
            ("events", f"in {self.stream['in']} = {parts}" + ("" if self.events_add_up else "  DO NOT ADD UP")),
            ("predictions", f"{self.predictions_read} read back, {self.predictions_doubled} of them twice"),
            ("  expected", f"{self.inputs_parity.windows}"),
            ("live MAE", f"{self.live.mae:.3f}, skill {self.live.skill:+.1%}, over {self.live.windows} test windows"),
            ("parity", *self.inputs_parity.lines()),
            ("  as predicted", *self.predictions_parity.lines()),
            ("seconds", ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())),
            ("picture", self.picture),
        ]
        text = [f"{name:<18} {value}" for name, value, *_ in rows]
        return [*text, "everything holds" if self.holds else "NOT everything holds"]


def run_demo(
    spec_file: Path,
    inputs: Sequence[str],
    *,
    output: Path,
    report: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Runs the demo; what an earlier one left in `output` is replaced.

    Args:
      spec_file: a spec of series.
      inputs: its files.
      output: a folder for the dataset, the run, the models, Kafka's data and the picture.
      report: is told, in words, what happens.
    Raises:
      TidegaugeError: a step failed.
    """
    with demo_folder(output) as environment:
        spec = load_spec(spec_file, os.environ | environment)
        return _run(spec, spec_file, inputs, output, environment, Steps(report), report)


def _run(
    spec: Spec,
    spec_file: Path,
    inputs: Sequence[str],
    output: Path,
    environment: Mapping[str, str],
    steps: Steps,
    report: Callable[[str], None],
) -> DemoResult:
    from flows.local_stack import start_model_server
    from flows.picture import draw_forecasts
    from models.registry import push
    from models.train import train
    from pipelines.ingest import ingest

    with steps("Kafka"):
        start_kafka(spec.kafka, output / "state", report)
    with steps("ingest"):
        manifest = ingest(spec, inputs=inputs, output=str(output / "dataset"))
    with steps("train"):
        trained = train(spec, data=output / "dataset", output=output / "run")
    with steps("push and serve"):
        push(output / "run", to=output / "models", name=spec.model_name)
        start_model_server(spec, output / "state")
    with steps("replay"):
        replayed = replay(spec, inputs, report=report)
    with steps("stream"):
        counts = stream_to_end(spec_file, environment)
    with steps("read back"):
        predictions = list(read_predictions(spec, spec.topics.predictions.name))
        ids = Counter(
            prediction_id(spec.stream.name, p["key"], p["origin_ms"], p["model"]["name"], p["role"])
            for p in predictions
        )
        folder = DatasetFolder(output / "dataset")
        live = score_predictions(folder, "test", predictions)
        picture = output / "forecasts.png"
        draw_forecasts(spec, folder, "test", predictions, picture)
    with steps("verify"):
        ingest(spec, inputs=inputs, output=str(output / "all-windows"), all_origins=True)
        everything = DatasetFolder(output / "all-windows")
        inputs_parity = verify_dataset(spec, inputs, everything)
        predictions_parity = verify_predictions(spec, everything, spec.topics.predictions.name)

    target = spec.targets[0]
    mae, mae_persistence = trained.mae[target.name], trained.mae_persistence[target.name]
    if mae is None or not mae_persistence:
        raise DatasetError(f"{folder.path}: expected observed values of {target.name} in the test split, got none")
    return DemoResult(
        windows={name: split.windows_by_key for name, split in manifest.splits.items()},
        target=f"{target.name} ({target.unit})" if target.unit else target.name,
        test_mae=mae,
        test_mae_persistence=mae_persistence,
        test_skill=1 - mae / mae_persistence,
        replayed=replayed,
        stream=counts,
        predictions_read=len(predictions),
        predictions_doubled=sum(count - 1 for count in ids.values()),
        live=live,
        inputs_parity=inputs_parity,
        predictions_parity=predictions_parity,
        seconds=steps.seconds,
        picture=str(picture),
    )
