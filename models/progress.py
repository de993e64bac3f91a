"""What a training run tells while it runs: on the terminal, as lines of JSON, and as a picture at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class EpochLog:
    """Keeps a record of each epoch, in a file of a line of JSON each too.

    A record holds `epoch` from 1, `seconds`, `loss` and the metrics, the same of the validation split with `val_`
    before them, what the caller adds, `learning_rate`, and `dead_units` where the model has units that can be dead.
    """

    def __init__(self, path: Path) -> None:
        self.records: list[dict[str, Any]] = []
        self._path = path

    def restore(self, records: list[dict[str, Any]]) -> None:
        """Goes back to these records, whatever the file holds."""
        self.records = list(records)
        self._path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")

    def add(self, record: dict[str, Any]) -> None:
        """Takes an epoch's record."""
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class Boards:
    """The numbers of the epochs for TensorBoard: `train` and `validation` beside each other."""

    def __init__(self, folder: Path) -> None:
        self._train = tf.summary.create_file_writer(str(folder / "train"))
        self._validation = tf.summary.create_file_writer(str(folder / "validation"))

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes an epoch's record."""
        for name, value in record.items():
            if name == "epoch" or value is None:
                continue
            writer = self._validation if name.startswith("val_") else self._train
            with writer.as_default():
                tf.summary.scalar(f"epoch_{name.removeprefix('val_')}", value, step=record["epoch"])
        self._train.flush()
        self._validation.flush()

    def close(self) -> None:
        """Closes the files."""
        self._train.close()
        self._validation.close()


class EpochLines:
    """Prints a line an epoch; on a terminal there is a bar within the epoch too."""

    def __init__(self, console: Console, epochs: int, steps: int) -> None:
        self._console, self._epochs, self._steps = console, epochs, steps
        self._task: TaskID | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def begin(self, epoch: int, step: int) -> None:
        """Starts the bar of an epoch of which so many batches are done."""
        self._task = self._bar.add_task(f"epoch {epoch} of {self._epochs}", total=self._steps, completed=step)
        self._bar.start()

    def move(self, step: int) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bar.update(self._task, completed=step)

    def end(self, record: Mapping[str, Any]) -> None:
        """Takes the bar away and prints the epoch's line."""
        self.close()
        measured = [
            f"{name.removeprefix('val_')} {value:.4f}"
            for name, value in record.items()
            if name.startswith("val_") and name != "val_loss" and value is not None
        ]
        self._console.print(
            f"epoch {record['epoch']:>{len(str(self._epochs))}}/{self._epochs}  loss {record['loss']:.4f}  "
            f"validation loss {record['val_loss']:.4f}  {'  '.join(measured)}  {record['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Takes the bar away; the terminal is as it was."""
        self._bar.stop()
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def draw_learning_curve(records: list[dict[str, Any]], best_epoch: int, path: Path) -> None:
    """Draws training and validation loss by epoch as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [record["epoch"] for record in records]
    axes.plot(epochs, [record["loss"] for record in records], marker=".", label="training")
    axes.plot(epochs, [record["val_loss"] for record in records], marker=".", label="validation")
    axes.axvline(best_epoch, color="grey", linestyle=":", label=f"best: epoch {best_epoch}")
    axes.set(xlabel="epoch", ylabel="loss (standardised)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=120)
