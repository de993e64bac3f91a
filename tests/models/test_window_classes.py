"""Windows with a label, from a file of events to an exported model; expected numbers come from its answers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import layout
from models.ensemble import ensemble
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.reader import windows
from models.window_classes import ClassRunSummary, label_counts, train_classifier
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder, Moments, Statistics
from schemas.errors import ModelError, SpecError
from schemas.spec import Spec, parse_spec
from tests.models.families.test_conformance import FORMS
from tidegauge import main

UCR = Path(__file__).parents[3] / "shared" / "data" / "ucr"
PAST = 24
MOMENTS = Moments(count=9, mean=0.5, std=2.0, min=-1.0, max=3.0)


def case_spec(classes: list[str], past: int, channels: int = 1, **sections: Any) -> Spec:
    """Each key is a case: `past` steps of values, and after them an event that tells the class."""
    values = [{"name": f"v{number}", "role": "past"} for number in range(channels)]
    label = {"name": "kind", "role": "label", "type": "category", "categories": classes}
    document: dict[str, Any] = {
        "stream": {
            "name": "cases",
            "key": "case",
            "time": {"field": "time", "format": "epoch_ms"},
            "features": [label, *values],
        },
        "grid": {"step": "1s", "regular": True},
        "window": {"past": past, "horizon": 1, "min_observed": past},
        "split": {"by": "keys", "validation": 0.2, "test": 0.2},
        "model": {"family": "cnn", "units": 8, "layers": 2, "patch": 4, "stride": 2},
        "training": {"epochs": 10, "batch_size": 16, "learning_rate": 0.01},
    }
    return parse_spec(document | sections)


def write_cases(path: Path, cases: list[tuple[str, str, np.ndarray[Any, np.dtype[np.float64]]]]) -> str:
    """Events of cases: key, class, and values (step, channel)."""
    channels = cases[0][2].shape[1]
    with path.open("w") as file:
        file.write(",".join(["case", "time", "kind", *(f"v{number}" for number in range(channels))]) + "\n")
        for key, kind, values in cases:
            for step, row in enumerate(values):
                file.write(f"{key},{1000 * step},,{','.join(f'{value:.6f}' for value in row)}\n")
            file.write(f"{key},{1000 * len(values)},{kind},{',' * (channels - 1)}\n")
    return str(path)


def waves(count: int = 150) -> list[tuple[str, str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """Two classes that differ in their period alone, not in level or size; the slow ones are more."""
    rng = np.random.default_rng(2)
    cases = []
    for number in range(count):
        kind, period = ("fast", 4) if number % 3 == 0 else ("slow", 9)
        values = np.sin(2 * np.pi * (np.arange(PAST) / period + rng.random())) + rng.normal(0, 0.3, PAST)
        cases.append((f"case{number}", kind, values[:, None]))
    return cases


@dataclass(frozen=True)
class Trained:
    """A run: its spec, dataset, folder and summary."""

    spec: Spec
    dataset: DatasetFolder
    run: Path
    summary: ClassRunSummary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("classes")
    spec = case_spec(["slow", "fast"], PAST)
    ingest(spec, inputs=[write_cases(folder / "events.csv", waves())], output=str(folder / "dataset"))
    summary = train_classifier(spec, data=folder / "dataset", output=folder / "run", quiet=True)
    return Trained(spec, DatasetFolder(folder / "dataset"), folder / "run", summary)


def of_split(trained: Trained, split: str) -> Iterator[dict[str, Any]]:
    yield from windows(trained.dataset, split, batch_size=7).as_numpy_iterator()


def test_each_case_is_one_window_with_its_class(trained: Trained) -> None:
    expected = {key: kind for key, kind, _ in waves()}
    found = {}
    for split in ("train", "validation", "test"):
        for batch in of_split(trained, split):
            assert batch["past_values"].shape[1:] == (PAST, 1)
            for key, number in zip(batch["key"], batch["label"], strict=True):
                assert key.decode() not in found
                found[key.decode()] = trained.spec.classes[number]
    assert found == expected


def test_it_learns_and_tells_how_well(trained: Trained) -> None:
    """Accuracy, confusion, cross-entropy and skill as the exported model's answers give them."""
    loaded = tf.saved_model.load(str(trained.run / layout.EXPORT_FOLDER))
    confusion, cost = np.zeros((2, 2), int), 0.0
    for batch in of_split(trained, "test"):
        answer = loaded.signatures["serving_default"](
            past_values=tf.constant(batch["past_values"]), past_observed=tf.constant(batch["past_observed"])
        )
        scores, said = answer["scores"].numpy(), answer["label"].numpy()
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        assert [text.decode() for text in said] == [trained.spec.classes[best] for best in scores.argmax(axis=1)]
        np.add.at(confusion, (batch["label"], scores.argmax(axis=1)), 1)
        cost -= float(np.log(scores[np.arange(len(scores)), batch["label"]]).sum())
    told = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    count = confusion.sum()
    assert told["windows"] == count == trained.summary.windows["test"]
    assert told["confusion"] == confusion.tolist()
    assert told["cross_entropy"] == pytest.approx(cost / count, rel=1e-3, abs=1e-5)
    assert told["accuracy"] == trained.summary.accuracy == pytest.approx(np.trace(confusion) / count)
    assert told["majority"]["class"] == "slow"
    assert trained.summary.accuracy_majority == pytest.approx(confusion[0].sum() / count)
    assert trained.summary.accuracy > 0.9
    assert told["majority"]["skill"] == pytest.approx(1 - (1 - told["accuracy"]) / (confusion[1].sum() / count))
    described = loaded.signatures["describe"](probe=tf.constant([0]))
    assert [name.decode() for name in described["classes"].numpy()[0]] == ["slow", "fast"]
    epochs = [json.loads(line) for line in (trained.run / layout.METRICS_FILE).read_text().splitlines()]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_skill"} <= epochs[0].keys()


def test_a_finished_run_and_its_export_are_evaluated_again(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    again = train_classifier(trained.spec, data=trained.dataset.path, output=trained.run, resume=True)
    assert again == trained.summary
    before = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    assert main(["evaluate", str(trained.run), "--data", str(trained.dataset.path)]) == 0
    shown = capsys.readouterr().out
    assert f"accuracy {before['accuracy']:.2%}" in shown
    assert "is / said" in shown
    after = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    assert after["confusion"] == before["confusion"]


def test_a_class_of_no_weight_is_never_said(trained: Trained, tmp_path: Path) -> None:
    spec = case_spec(
        ["slow", "fast"],
        PAST,
        model={"family": "mlp", "units": 2, "layers": 1},
        training={"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "class_weights": {"slow": 1e-6}},
    )
    train_classifier(spec, data=trained.dataset.path, output=tmp_path / "run", quiet=True)
    by_class = json.loads((tmp_path / "run" / layout.EVALUATION_FILE).read_text())["by_class"]
    assert (by_class["slow"]["recall"], by_class["fast"]["recall"]) == (0, 1)
    unknown = case_spec(["slow", "fast"], PAST, training={"class_weights": {"quick": 2.0}})
    with pytest.raises(ModelError, match="class_weights: expected classes of"):
        train_classifier(unknown, data=trained.dataset.path, output=tmp_path / "unknown")


@pytest.mark.parametrize("form", FORMS)
def test_every_neural_family_classifies(form: str) -> None:
    features = [
        {"name": "kind", "role": "label", "type": "category", "categories": ["a", "b", "c"]},
        {"name": "sky", "role": "past", "type": "category", "categories": ["sun", "rain"]},
        {"name": "load", "role": "past"},
        {"name": "area", "role": "static"},
        {"name": "hour", "role": "future", "calendar": "time_of_day"},
    ]
    for given, horizon in ((features, 3), ([features[0], features[2]], 1)):
        base = case_spec(["a", "b", "c"], 12, model=FORMS[form], window={"past": 12, "horizon": horizon})
        spec = base.model_copy(update={"stream": parse_stream(base, given)})
        statistics = Statistics(features={"load": MOMENTS, "area": MOMENTS}, keys={})
        rng = np.random.default_rng(1)
        inputs = {
            name: np.ones((4, *part.shape), bool)
            if part.dtype == "bool"
            else rng.random((4, *part.shape)).astype(np.float32)
            for name, part in input_forms(spec).items()
        }
        model = build_forecaster(spec, statistics)
        for variable in model.trainable_variables:  # some start from nothing
            variable.assign(rng.normal(0, 0.3, variable.shape))
        logits = model.predict_on_batch(inputs)["logits"]
        assert logits.shape == (4, 3)
        assert logits.dtype == np.float32
        for name in inputs.keys() - {"past_observed"}:
            changed = inputs | {name: inputs[name] + 0.4}
            assert not np.allclose(model.predict_on_batch(changed)["logits"], logits), name


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of a forest, with a class that no window has."""
    folder = tmp_path_factory.mktemp("voted")
    spec = case_spec(["slow", "never", "fast"], PAST, model={"family": "forest", "trees": 40, "feature_share": 0.2})
    ingest(spec, inputs=[write_cases(folder / "events.csv", waves())], output=str(folder / "dataset"))
    summary = train_classifier(spec, data=folder / "dataset", output=folder / "run", quiet=True)
    return Trained(spec, DatasetFolder(folder / "dataset"), folder / "run", summary)


def served_scores(run: Path, cases: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    signature = tf.saved_model.load(str(run / layout.EXPORT_FOLDER)).signatures["serving_default"]
    scores = signature(**{name: tf.constant(cases[name]) for name in ("past_values", "past_observed")})["scores"]
    found: np.ndarray[Any, np.dtype[np.float32]] = scores.numpy()
    return found


def test_a_forest_votes(voted: Trained) -> None:
    """Scores are shares of 40 votes; a class without one counts as if it had half of one."""
    assert voted.summary.epochs == 0
    assert voted.summary.accuracy > 0.85
    fitted = json.loads((voted.run / layout.RUN_FILE).read_text())["fit"]
    assert 0.8 < fitted["out_of_bag_accuracy"] < 1
    cases = next(windows(voted.dataset, "test", batch_size=100).as_numpy_iterator())
    scores = served_scores(voted.run, cases)
    votes = scores * 0.5 / scores[:, 1:2]
    np.testing.assert_allclose(votes, np.maximum(np.round(votes), 0.5), rtol=1e-4)
    np.testing.assert_allclose(np.where(votes < 0.9, 0, votes).sum(axis=1), 40, rtol=1e-4)
    assert (scores.argmax(axis=1) == cases["label"]).mean() == pytest.approx(voted.summary.accuracy)


def test_an_ensemble_is_the_mean_of_the_members_scores(voted: Trained, tmp_path: Path) -> None:
    other = voted.spec.semantic_document() | {"model": {"family": "mlp", "units": 8, "layers": 1}}
    train_classifier(parse_spec(other), data=voted.dataset.path, output=tmp_path / "mlp", quiet=True)
    members = [voted.run, tmp_path / "mlp"]
    summary = ensemble(members, data=voted.dataset.path, output=tmp_path / "both", weights="validation")
    assert isinstance(summary, ClassRunSummary)
    cases = next(windows(voted.dataset, "test", batch_size=100).as_numpy_iterator())
    weights = [one["weight"] for one in json.loads((tmp_path / "both" / layout.RUN_FILE).read_text())["members"]]
    expected = sum(share * served_scores(run, cases) for share, run in zip(weights, members, strict=True))
    np.testing.assert_allclose(served_scores(tmp_path / "both", cases), expected, rtol=1e-4, atol=1e-6)
    assert summary.accuracy == pytest.approx((expected.argmax(axis=1) == cases["label"]).mean())


def parse_stream(spec: Spec, features: list[dict[str, Any]]) -> Any:
    document = spec.semantic_document()
    stream = document["stream"]
    assert isinstance(stream, dict)
    return parse_spec(document | {"stream": stream | {"features": features}}).stream


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        (
            {"model": {"family": "linear"}},
            r"\$.model: a family that is fitted without descent does not go with a label",
        ),
        ({"model": {"family": "mlp", "quantiles": [0.1, 0.5, 0.9]}}, "'quantiles' does not go with a label"),
        ({"model": {"family": "hierarchical", "cacheable": True, "recent": 8}}, "'cacheable' does not go"),
        ({"model": {"family": "forest", "op": "ydf"}}, "'season' or 'op: ydf' does not go with a label"),
        (
            {"model": {"family": "ensemble", "members": [{"family": "linear"}], "weights": [1.0]}},
            "fitted without descent does not go with a label",
        ),
        ({"uncertainty": {"intervals": [0.9]}}, "are for forecasts, not for a label"),
    ],
)
def test_what_forecasts_alone_have_is_refused(sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        case_spec(["slow", "fast"], PAST, **sections)


def test_what_does_not_classify_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "spec.yaml"
    document = case_spec(["slow", "fast"], PAST).model_dump(mode="json", exclude_defaults=True)
    spec.write_text(json.dumps(document))
    assert main(["backtest", "--spec", str(spec), "--input", "nowhere.csv", "--output", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == "tidegauge: $.stream.features: expected a target to backtest, got the label 'kind'"


def ucr_cases(name: str, part: str) -> list[tuple[str, str, np.ndarray[Any, np.dtype[np.float64]]]]:
    """The cases of a `.ts` file of the UCR and UEA archives: channels apart by colons, the class last."""
    lines = (UCR / f"{name}_{part}.ts").read_text().partition("@data\n")[2].splitlines()
    cases = []
    for number, line in enumerate(lines):
        *channels, kind = line.strip().split(":")
        values = np.array([[float(value) for value in channel.split(",")] for channel in channels])
        cases.append((f"{part.lower()}{number}", kind, values.T))
    return cases


@pytest.mark.slow
@pytest.mark.skipif(not UCR.is_dir(), reason="needs the shared data folder")
@pytest.mark.parametrize("family", ["cnn", "forest"])
@pytest.mark.parametrize(("name", "least"), [("GunPoint", 0.85), ("ItalyPowerDemand", 0.93), ("BasicMotions", 0.95)])
def test_published_series(name: str, least: float, family: str, tmp_path: Path) -> None:
    """The published split: a test case is in `test`, and no other is."""
    train, test = ucr_cases(name, "TRAIN"), ucr_cases(name, "TEST")[:400]
    past, channels = train[0][2].shape
    spec = case_spec(
        sorted({kind for _, kind, _ in train}),
        past,
        channels,
        split={"by": "keys", "validation": 0.25, "test": [key for key, _, _ in test]},
        model={
            "cnn": {"family": "cnn", "units": 16, "layers": 3, "patch": 4, "stride": 2, "dropout": 0.1},
            "forest": {"family": "forest", "trees": 200, "min_leaf": 2, "feature_share": 0.1},
        }[family],
        training={
            "epochs": 60,
            "batch_size": 8,
            "learning_rate": 0.005,
            "schedule": {"by": "cosine"},
            "patience": 30,
        },
    )
    events = write_cases(tmp_path / "events.csv", [*train, *test])
    ingest(spec, inputs=[events], output=str(tmp_path / "dataset"))
    counts = label_counts(spec, DatasetFolder(tmp_path / "dataset"), "test")
    assert counts == {kind: sum(one == kind for _, one, _ in test) for kind in spec.classes}
    summary = train_classifier(spec, data=tmp_path / "dataset", output=tmp_path / "run", quiet=True)
    assert summary.windows["test"] == len(test)
    assert summary.accuracy >= least
