"""A training run of texts from end to end: its folder, its numbers, and its export as others see it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from models import layout
from models.ensemble import ensemble
from models.text import stored
from models.text.exported import evaluate_exported_texts, evaluation_lines
from models.text.reader import documents
from models.text.train import TextRunSummary, scores_of, train_texts
from models.tuning import Search, tune
from models.version_files import check_files
from schemas.errors import DatasetError, ModelError, TidegaugeError
from schemas.search_space import SearchSpace
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec, parse_text_spec
from tests.models.text.conftest import moods, moods_spec

BARE_PROCESS = """
import sys
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[2], allow_pickle=True)["text"]
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](text=tf.constant(given.tolist()))
np.savez(sys.argv[3], label=answer["label"].numpy().astype(str), scores=answer["scores"].numpy())
assert not {"models", "schemas"} & {name.split(".")[0] for name in sys.modules}, "our code was loaded"
"""
ODD_TEXTS = [b"", b"   ", b"not lovely", "été!".encode(), b"\xff\xfe broken", "ﬁne 漢字 a\u0301".encode()]


@dataclass(frozen=True)
class Trained:
    """A run: its spec, dataset, folder and summary."""

    spec: TextSpec
    dataset: TextDatasetFolder
    run: Path
    summary: TextRunSummary


@pytest.fixture(scope="module")
def trained(moods_dataset: TextDatasetFolder, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    run = tmp_path_factory.mktemp("trained") / "run"
    spec = moods_spec()
    return Trained(spec, moods_dataset, run, train_texts(spec, data=moods_dataset.path, output=run, quiet=True))


def test_an_ensemble_is_the_mean_of_the_members_scores(trained: Trained, tmp_path: Path) -> None:
    train_texts(moods_spec({"family": "bigrams"}), data=trained.dataset.path, output=tmp_path / "bigrams", quiet=True)
    runs = [trained.run, tmp_path / "bigrams"]
    summary = ensemble(runs, data=trained.dataset.path, output=tmp_path / "both", weights="validation")
    assert isinstance(summary, TextRunSummary)
    texts = [document["text"].encode() for document in moods()[:50]]
    scores = [
        tf.saved_model.load(str(run / layout.EXPORT_FOLDER))
        .signatures["serving_default"](text=tf.constant(texts))["scores"]
        .numpy()
        for run in (*runs, tmp_path / "both")
    ]
    weights = [one["weight"] for one in json.loads((tmp_path / "both" / layout.RUN_FILE).read_text())["members"]]
    np.testing.assert_allclose(scores[2], weights[0] * scores[0] + weights[1] * scores[1], rtol=1e-4, atol=1e-6)
    assert summary.accuracy >= 0.8
    few = {"family": "cnn", "embedding": 4, "filters": 2, "bigrams": {"min_count": 5}}
    train_texts(moods_spec(few), data=trained.dataset.path, output=tmp_path / "few", quiet=True)
    with pytest.raises(ModelError, match="expected the bigrams of the other runs"):
        ensemble([*runs, tmp_path / "few"], data=trained.dataset.path, output=tmp_path / "three")


def test_what_a_run_tells(trained: Trained) -> None:
    evaluation = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    classifier = stored.load(trained.run)
    classes = trained.dataset.manifest.classes
    confusion = np.zeros((2, 2), int)
    cost = 0.0
    for batch in documents(trained.dataset, "test", batch_size=7).as_numpy_iterator():
        scores = scores_of(classifier)(batch)
        np.add.at(confusion, (batch["label"], scores.argmax(axis=1)), 1)
        cost -= float(np.log(scores[np.arange(len(scores)), batch["label"]]).sum())
    assert evaluation["confusion"] == confusion.tolist()
    count = trained.dataset.split("test").documents
    assert evaluation["documents"] == count == confusion.sum() == trained.summary.documents["test"]
    assert evaluation["accuracy"] == trained.summary.accuracy == np.trace(confusion) / count
    assert evaluation["cross_entropy"] == pytest.approx(cost / count, rel=1e-4)
    assert evaluation["majority"]["class"] == "good"
    majority = confusion[classes.index("good")].sum() / count
    assert evaluation["majority"]["accuracy"] == pytest.approx(majority)
    assert evaluation["majority"]["skill"] == pytest.approx(1 - (1 - evaluation["accuracy"]) / (1 - majority))
    assert trained.summary.accuracy > 0.9  # what a bag of words cannot tell: a third is negated
    epochs = [json.loads(line) for line in (trained.run / layout.METRICS_FILE).read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "val_skill"} <= epochs[0].keys()


def texts_of(trained: Trained) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
    """The texts of the test split, and the scores that the trained model has for the ids that ingest wrote."""
    classifier = stored.load(trained.run)
    batches = list(documents(trained.dataset, "test", batch_size=64).as_numpy_iterator())
    scores = np.concatenate([scores_of(classifier)(batch) for batch in batches])
    return np.concatenate([batch["text"] for batch in batches]), scores


def test_a_bare_process_gives_raw_texts_the_scores_of_the_ingested_ids(trained: Trained, tmp_path: Path) -> None:
    texts, expected = texts_of(trained)
    np.savez(tmp_path / "texts.npz", text=texts)
    arguments = [trained.run / layout.EXPORT_FOLDER, tmp_path / "texts.npz", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-c", BARE_PROCESS, *map(str, arguments)], check=True, cwd=tmp_path, env={})
    with np.load(tmp_path / "found.npz") as found:
        np.testing.assert_allclose(found["scores"], expected, atol=1e-5)
        classes = np.array(trained.dataset.manifest.classes)
        np.testing.assert_array_equal(found["label"], classes[expected.argmax(axis=1)])


def test_the_signatures(trained: Trained) -> None:
    folder = trained.run / layout.EXPORT_FOLDER
    check_files(folder)
    signatures = tf.saved_model.load(str(folder)).signatures
    answer = signatures["serving_default"](text=tf.constant(ODD_TEXTS))
    assert np.isfinite(answer["scores"]).all()
    np.testing.assert_allclose(answer["scores"].numpy().sum(axis=1), 1, rtol=1e-5)
    alone = [signatures["serving_default"](text=tf.constant([text]))["scores"].numpy() for text in ODD_TEXTS]
    np.testing.assert_allclose(np.concatenate(alone), answer["scores"], atol=1e-6)

    def example(text: bytes) -> bytes:
        feature = {"text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))}
        found: bytes = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
        return found

    examples = signatures["serving_examples"](examples=tf.constant([example(text) for text in ODD_TEXTS]))
    np.testing.assert_array_equal(examples["scores"], answer["scores"])
    np.testing.assert_array_equal(examples["label"], answer["label"])
    described = signatures["describe"](probe=tf.zeros(2, tf.int32))
    assert described["window_fingerprint"].numpy().tolist() == [trained.spec.window_fingerprint.encode()] * 2
    assert described["classes"].numpy().tolist() == [[b"bad", b"good"]] * 2
    assert parse_text_spec(json.loads(described["spec_json"].numpy()[0])).fingerprint == trained.spec.fingerprint
    requests = tf.data.TFRecordDataset(str(folder / layout.WARMUP_FILE)).as_numpy_iterator()
    for request in (PredictionLog.FromString(record).predict_log.request for record in requests):
        assert request.model_spec.name == "moods"
        signatures["serving_default"](text=tf.constant(tf.make_ndarray(request.inputs["text"])))


def test_the_same_seed_gives_the_same_model_and_a_complete_run_is_left_as_it_is(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = train_texts(trained.spec, data=trained.dataset.path, output=tmp_path / "again")
    assert replace(again, run="", seconds=0.0) == replace(trained.summary, run="", seconds=0.0)
    assert (tmp_path / "again" / layout.METRICS_FILE).read_text().count("\n") == again.epochs
    for one, other in zip(
        stored.load(trained.run).model.get_weights(), stored.load(tmp_path / "again").model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    told = capfd.readouterr()
    assert told.out == ""
    assert [line[:10] for line in told.err.splitlines() if "epoch" in line] == ["epoch 1/2 ", "epoch 2/2 "]
    resumed = train_texts(trained.spec, data=trained.dataset.path, output=tmp_path / "again", resume=True, quiet=True)
    assert resumed == again


def refusal(error: type[TidegaugeError], spec: TextSpec, dataset: Path, output: Path) -> str:
    with pytest.raises(error) as refused:
        train_texts(spec, data=dataset, output=output, quiet=True)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_exported_model_is_evaluated_from_raw_texts(trained: Trained, tmp_path: Path) -> None:
    document = evaluate_exported_texts(trained.run / layout.EXPORT_FOLDER, trained.dataset.path, output=tmp_path)
    assert json.loads((tmp_path / layout.EVALUATION_FILE).read_text()) == document
    before = json.loads((trained.run / layout.EVALUATION_FILE).read_text())
    assert document.keys() == before.keys()
    assert document["confusion"] == before["confusion"]
    assert document["bigrams"] == before["bigrams"]
    assert document["cross_entropy"] == pytest.approx(before["cross_entropy"], rel=1e-4)
    lines = evaluation_lines(document)
    assert lines[0].startswith(f"{document['documents']} documents of test: accuracy ")
    assert [line.split() for line in lines[-2:]] == [
        [name, *map(str, row)] for name, row in zip(("bad", "good"), document["confusion"], strict=True)
    ]
    with pytest.raises(ModelError, match="expected --output"):
        evaluate_exported_texts(trained.run / layout.EXPORT_FOLDER, trained.dataset.path)
    with pytest.raises(ModelError, match="expected the folder of a run"):
        evaluate_exported_texts(tmp_path, trained.dataset.path, output=tmp_path)


def test_mistakes_are_one_line(trained: Trained, tmp_path: Path) -> None:
    data, output = trained.dataset.path, tmp_path / "run"
    assert "$.model" in refusal(ModelError, moods_spec().model_copy(update={"model": None}), data, output)
    assert "($.text)" in refusal(DatasetError, moods_spec(text={"length": 7}), data, output)
    assert "($.split)" in refusal(DatasetError, moods_spec(split={"test": 0.3}), data, output)
    assert "['goood']" in refusal(ModelError, moods_spec(training={"class_weights": {"goood": 2.0}}), data, output)
    assert "new or empty folder" in refusal(ModelError, trained.spec, data, trained.run)
    assert not output.exists()
    with pytest.raises(ModelError, match="expected the folder of a complete run"):
        stored.load(tmp_path)


def test_a_search_goes_by_the_cross_entropy_unless_told_otherwise(
    moods_dataset: TextDatasetFolder, tmp_path: Path
) -> None:
    document = moods_spec({"family": "bigrams"}).semantic_document()
    space = SearchSpace({"model.smoothing": (0.1, 1_000.0)})
    arguments: dict[str, Any] = {"data": moods_dataset.path, "output": tmp_path / "search"}
    tuned = tune(document, space, Search(trials=2), **arguments)
    assert tuned.metric == "cross_entropy"
    assert [trial.values["model.smoothing"] for trial in tuned.trials] == [0.1, 1_000.0]
    assert tuned.trials[0].scores[0] < tuned.trials[1].scores[0]
    for search, problem in (
        (Search(metric="mae"), "--metric: expected one of cross_entropy, error_rate"),
        (Search(grows="windows"), "--grows: expected epochs"),
    ):
        with pytest.raises(ModelError, match=problem):
            tune(document, space, search, data=moods_dataset.path, output=tmp_path / "none")


def test_there_are_as_many_moods_as_the_tests_take_for_granted() -> None:
    negated = sum("not" in document["text"].split() for document in moods())
    assert 0.2 < negated / len(moods()) < 0.4
