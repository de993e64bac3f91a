"""The descent of a small model: what each option does, and that a stopped run goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout
from models.class_weights import class_weights
from models.descent import Descent, Feed, Objective, descend
from models.optimization import LearningRate, build_optimizer, clipping, plateau_factor
from models.progress import EpochLines
from schemas.documents import parse_as
from schemas.errors import Interrupted, ModelError, SpecError
from schemas.training_spec import PlateauRate, Training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(44, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3 * RNG.normal(size=(44, 1))).astype(np.float32)
WEIGHTS = (RNG.random((44, 1)) < 0.8).astype(np.float32)
TRAIN, BATCH = 34, 8  # five batches, the last of two


def options(**fields: Any) -> Training:
    return parse_as(Training, {"epochs": 4, "learning_rate": 0.05, "seed": 5} | fields, where="training")


def small_model(*, dropout: float = 0.3) -> Any:
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(6, activation="relu")(inputs)
    hidden = keras.layers.Dropout(dropout)(hidden)
    return keras.Model(inputs, {"mean": keras.layers.Dense(1)(hidden)})


def squared(labels: Any, outputs: Any) -> Any:
    return tf.square(outputs["mean"] - labels)


def absolute(labels: Any, outputs: Any) -> Any:
    return tf.abs(outputs["mean"] - labels)


def feed(x: NDArray[Any] = X) -> Feed:
    def batches(rows: slice) -> Any:
        return tf.data.Dataset.from_tensor_slices((x[rows], Y[rows], WEIGHTS[rows]))

    return Feed(
        train=lambda seed: batches(slice(TRAIN)).shuffle(TRAIN, seed=seed).batch(BATCH),
        train_steps=5,
        validation=batches(slice(TRAIN, None)).batch(BATCH),
        validation_steps=2,
    )


def train(run: Path, training: Training, **other: Any) -> tuple[Descent, list[NDArray[Any]]]:
    """Trains the small model; what came of it, and its weights."""
    run.mkdir(exist_ok=True)
    keras.utils.set_random_seed(training.seed)
    model = other.pop("model", None) or small_model()
    descent = descend(
        model,
        training,
        Objective(squared, {"mae": absolute}),
        other.pop("feed", None) or feed(),
        run=run,
        console=Console(quiet=True),
        **other,
    )
    return descent, model.get_weights()


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def assert_same(left: list[NDArray[Any]], right: list[NDArray[Any]]) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one, other)


# --- stopping and going on ---


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Descent, list[NDArray[Any]]]:
    return train(tmp_path_factory.mktemp("whole") / "run", resumable())


def resumable(**fields: Any) -> Training:
    """With all the state that there can be: moments, dropout, a schedule that looks back, batches of every size."""
    schedule = {"by": "plateau", "patience": 1, "warmup": 0.5}
    return options(optimizer="adamw", weight_decay=0.01, schedule=schedule, learning_rate=0.5, patience=None, **fields)


@pytest.mark.parametrize("batches", [1, 4, 5, 7, 19])
def test_a_run_stopped_after_any_batch_ends_as_an_undisturbed_one(
    batches: int, undisturbed: tuple[Descent, list[NDArray[Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    move = EpochLines.move

    def moved(self: EpochLines, step: int) -> None:
        nonlocal done
        done += 1
        if done == batches:
            signal.raise_signal(signal.SIGTERM)
        move(self, step)

    monkeypatch.setattr(EpochLines, "move", moved)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=rf"interrupted in epoch {(batches - 1) // 5 + 1}, .*; --resume goes on$"):
        train(tmp_path, resumable())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    descent, weights = train(tmp_path, resumable())
    assert untimed(descent.records) == untimed(undisturbed[0].records)
    assert_same(weights, undisturbed[1])
    lines = (tmp_path / layout.METRICS_FILE).read_text().splitlines()
    assert untimed([json.loads(line) for line in lines]) == untimed(undisturbed[0].records)


def test_batches_in_one_execution_change_nothing(
    undisturbed: tuple[Descent, list[NDArray[Any]]], tmp_path: Path
) -> None:
    _, weights = train(tmp_path, resumable(steps_per_execution=3))
    assert_same(weights, undisturbed[1])


def test_a_half_written_checkpoint_is_ignored_and_a_damaged_one_refused(tmp_path: Path) -> None:
    train(tmp_path, options(epochs=1))
    whole = (tmp_path / layout.CHECKPOINT_FILE).read_bytes()
    (tmp_path / f".{layout.CHECKPOINT_FILE}-unfinished").write_bytes(whole[: len(whole) // 2])
    descent, _ = train(tmp_path, options(epochs=2))
    assert [record["epoch"] for record in descent.records] == [1, 2]
    (tmp_path / layout.CHECKPOINT_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="expected the checkpoint of a run"):
        train(tmp_path, options(epochs=2))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    train(tmp_path, options(epochs=1))
    with pytest.raises(ModelError, match="of a model of this spec, got one of another shape"):
        train(tmp_path, options(epochs=2, optimizer="sgd"))


# --- what comes of it ---


def test_the_best_weights_come_back_and_the_numbers_are_theirs(tmp_path: Path) -> None:
    model = small_model()
    descent, _ = train(tmp_path, options(learning_rate=1.0, epochs=12, patience=3), model=model)
    losses = [record["val_loss"] for record in descent.records]
    assert descent.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == descent.best_epoch + 3 < 12  # it ends when patience does
    error = np.abs(model.predict_on_batch(X[TRAIN:])["mean"] - Y[TRAIN:])
    weights = WEIGHTS[TRAIN:]
    assert min(losses) == pytest.approx((error**2 * weights).sum() / weights.sum(), rel=1e-5)
    best = descent.records[descent.best_epoch - 1]
    assert best["val_mae"] == pytest.approx(error[weights > 0].mean(), rel=1e-5)


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, options(epochs=1))
    before = (tmp_path / layout.CHECKPOINT_FILE).read_bytes()
    with pytest.raises(ModelError, match="epoch 2: expected a finite loss, got nan; a lower"):
        train(tmp_path, options(epochs=3), feed=feed(X * np.float32(np.nan)))
    assert (tmp_path / layout.CHECKPOINT_FILE).read_bytes() == before
    assert len(train(tmp_path, options(epochs=3))[0].records) == 3


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path: Path) -> None:
    """The last batch's update overflows: its loss, taken before, was still finite."""
    with pytest.raises(ModelError, match="expected finite weights"):
        train(tmp_path, options(optimizer="sgd", learning_rate=3e38, clip="none"), checkpoint_seconds=0)
    assert not (tmp_path / layout.CHECKPOINT_FILE).exists()


def test_dead_units_are_those_that_never_fire(tmp_path: Path) -> None:
    model = small_model()
    kernel, bias = model.layers[1].get_weights()
    bias[:2] = -1e6  # two of six
    model.layers[1].set_weights([kernel, bias])
    descent, _ = train(tmp_path, options(epochs=1, learning_rate=1e-6), model=model)
    assert descent.records[0]["dead_units"] == pytest.approx(2 / 6)
    linear = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    plain = keras.Model(linear.inputs, {"mean": linear.outputs[0]})
    assert "dead_units" not in train(tmp_path / "linear", options(epochs=1), model=plain)[0].records[0]


# --- optimizers ---


def after_steps(training: Training, gradients: list[float]) -> float:
    """Where a variable at 1 is after these gradients."""
    variable = keras.Variable(1.0, name="kernel")
    optimizer = build_optimizer(training, LearningRate(training, steps_per_epoch=10))
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply(clipping(training)([tf.constant(gradient)]), [variable])
    return float(variable)


def by_hand(training: Training, gradients: list[float]) -> float:
    """The same by the papers' formulas."""
    x, first, second, rate = 1.0, 0.0, 0.1 if training.optimizer == "adagrad" else 0.0, training.learning_rate
    for step, gradient in enumerate(gradients, start=1):
        x -= rate * training.weight_decay * x
        match training.optimizer:
            case "sgd":
                first = training.momentum * first - rate * gradient
                x += training.momentum * first - rate * gradient if training.nesterov else first
            case "adagrad":
                second += gradient**2
                x -= rate * gradient / np.sqrt(second + 1e-7)
            case "rmsprop":
                second = 0.9 * second + 0.1 * gradient**2
                first = training.momentum * first + rate * gradient / np.sqrt(second + 1e-7)
                x -= first
            case _:
                first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
                x -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
    return float(x)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "adagrad"},
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "weight_decay": 0.1},
    ],
    ids=str,
)
def test_optimizers_are_those_of_their_papers(fields: dict[str, Any]) -> None:
    training, gradients = options(clip="none", **fields), [0.5, -1.0, 2.0, 0.1]
    assert after_steps(training, gradients) == pytest.approx(by_hand(training, gradients), rel=1e-5)


def test_biases_do_not_decay() -> None:
    training = options(optimizer="adamw", weight_decay=0.5)
    bias = keras.Variable(1.0, name="bias")
    optimizer = build_optimizer(training, LearningRate(training, 1))
    optimizer.build([bias])
    optimizer.apply([tf.constant(0.0)], [bias])
    assert float(bias) == 1.0


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("global_norm", [[0.6, 0.0], [0.8]]),
        ("norm", [[1.0, 0.0], [1.0]]),
        ("value", [[1.0, 0.0], [1.0]]),
        ("none", [[3.0, 0.0], [4.0]]),
    ],
)
def test_clipping(clip: str, expected: list[list[float]]) -> None:
    clipped = clipping(options(clip=clip, clip_norm=1.0))([tf.constant([3.0, 0.0]), tf.constant([4.0])])
    for found, wanted in zip(clipped, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def rates(schedule: dict[str, Any], *, epochs: int = 10, steps: int = 4) -> list[float]:
    rate = LearningRate(options(schedule=schedule, learning_rate=1.0, epochs=epochs), steps)
    return [float(rate(step)) for step in range(epochs * steps)]


def test_schedules() -> None:
    assert rates({"by": "constant"}) == [1.0] * 40
    warm = rates({"by": "constant", "warmup": 2.0})
    np.testing.assert_allclose(warm[:9], [*np.arange(1, 9) / 8, 1.0])
    cosine = rates({"by": "cosine", "floor": 0.1, "warmup": 2.0})
    np.testing.assert_allclose(cosine[8:], 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.arange(32) / 32)), atol=1e-6)
    even = rates({"by": "exponential", "factor": 0.5, "every": 2.0})
    np.testing.assert_allclose(even, 0.5 ** (np.arange(40) / 8), rtol=1e-5)
    stairs = rates({"by": "exponential", "factor": 0.5, "every": 2.0, "steps": True})
    np.testing.assert_allclose(stairs, 0.5 ** (np.arange(40) // 8), rtol=1e-6)


def test_a_plateau_lowers_the_rate() -> None:
    schedule = PlateauRate(by="plateau", factor=0.5, patience=2, floor=0.3)
    assert [plateau_factor(schedule, [3, 2, 2, 1, 1, 1, 1, 1, 1, 1][:epochs]) for epochs in range(11)] == [
        *[1.0] * 6,
        *[0.5] * 2,
        *[0.3] * 3,
    ]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"momentum": 0.9}, "'adam' has no momentum"),
        ({"optimizer": "sgd", "nesterov": True}, "nesterov is for 'sgd' with a momentum"),
        ({"optimizer": "adamw"}, "'adamw' is 'adam' with a weight_decay"),
        ({"schedule": {"by": "exponential"}}, r"\$.schedule.factor: expected a value"),
    ],
)
def test_options_that_do_not_fit(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        options(**fields)


# --- class weights ---


def test_class_weights() -> None:
    counts = {"a": 30, "b": 10, "c": 0}
    assert class_weights(options(), "abc", counts).tolist() == [1, 1, 1]
    assert class_weights(options(class_weights={"b": 3.0}), "abc", counts).tolist() == [1, 3, 1]
    balanced = class_weights(options(class_weights="balanced"), "abc", counts)
    np.testing.assert_allclose(balanced, [40 / 60, 40 / 20, 0])
    with pytest.raises(ModelError, match=r"expected classes of \['a', 'b', 'c'\], got \['z'\]"):
        class_weights(options(class_weights={"z": 1.0}), list("abc"), counts)
