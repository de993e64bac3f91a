"""What a training run tells while it runs: on the terminal, as lines of JSON, and as a picture at its end."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import keras
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.yardsticks import skill
from schemas.errors import ModelError


class EpochLog(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps a record of each epoch, and appends it to a file as a line of JSON.

    A record holds `epoch` from 1, `seconds`, `loss`, `mae`, `val_loss`, `val_mae` (errors in deviations) and
    `val_skill` against persistence.

    Raises:
      ModelError: the loss is no finite number any more.
    """

    def __init__(self, path: Path, persistence_mae: float) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []
        self._path, self._persistence_mae = path, persistence_mae

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Starts the epoch's clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Takes the epoch's numbers."""
        numbers = {name: float(value) for name, value in (logs or {}).items()}
        for name in ("loss", "val_loss"):
            if not math.isfinite(numbers[name]):
                raise ModelError(
                    f"epoch {epoch + 1}: expected a finite {name}, got {numbers[name]}; "
                    "a lower $.training.learning_rate or $.training.clip_norm may help"
                )
        record: dict[str, Any] = {
            "epoch": epoch + 1,
            "seconds": round(time.perf_counter() - self._started, 3),
            **numbers,
        }
        record["val_skill"] = skill(numbers["val_mae"], self._persistence_mae)
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class EpochLines(keras.callbacks.Callback):  # type: ignore[misc]
    """Prints a line an epoch; on a terminal there is a bar within the epoch too."""

    def __init__(self, log: EpochLog, console: Console, epochs: int) -> None:
        super().__init__()
        self._log, self._console, self._epochs = log, console, epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Starts the epoch's bar."""
        self._task = self._bar.add_task(f"epoch {epoch + 1} of {self._epochs}", total=self.params["steps"])
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Moves the bar."""
        self._bar.update(self._task, completed=batch + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        """Takes the bar away and prints the epoch's line."""
        self.close()
        record = self._log.records[-1]
        beside = "" if record["val_skill"] is None else f"  skill {record['val_skill']:+.3f}"
        self._console.print(
            f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}  loss {record['loss']:.4f}  "
            f"validation loss {record['val_loss']:.4f}{beside}  {record['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def close(self) -> None:
        """Takes the bar away; the terminal is as it was."""
        self._bar.stop()
        if self._bar.tasks:
            self._bar.remove_task(self._task)


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
