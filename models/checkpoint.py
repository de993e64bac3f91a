"""The state of a run as one file, replaced as a whole."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ModelError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that the rest of a run depends on.

    `records` are those of the finished epochs; `step` batches of the next one are done, in `seconds`, and `sums` are
    what its numbers are made of so far (float64). `variables` are those of the model, its random state among them, and
    of the optimizer; `best` the weights of the best finished epoch, empty before there is one.
    """

    records: list[dict[str, Any]]
    step: int
    seconds: float
    sums: NDArray[np.float64]
    variables: list[NDArray[Any]]
    best: list[NDArray[Any]]

    def write(self, path: Path) -> None:
        """Puts it in the place of an earlier one: whatever happens, a whole one is there."""
        arrays = {f"variable-{index}": value for index, value in enumerate(self.variables)}
        arrays |= {f"best-{index}": value for index, value in enumerate(self.best)}
        progress = json.dumps({"records": self.records, "step": self.step, "seconds": self.seconds})
        unfinished = path.with_name(f".{path.name}-unfinished")
        with unfinished.open("wb") as file:
            np.savez(file, progress=np.array(progress), sums=self.sums, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Reads one.

        Raises:
          ModelError: there is none, or it is damaged.
        """
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                progress = json.loads(str(arrays["progress"]))
                found = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
            raise ModelError(f"{path}: expected the checkpoint of a run, got something else: {exc}") from exc

        def numbered(kind: str) -> list[NDArray[Any]]:
            return [found[f"{kind}-{index}"] for index in range(sum(name.startswith(f"{kind}-") for name in found))]

        return cls(sums=found["sums"], variables=numbered("variable"), best=numbered("best"), **progress)
