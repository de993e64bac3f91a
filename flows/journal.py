"""The journal of a run in steps: what is finished is not done again, whenever and wherever the run was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schemas.errors import ModelError

JOURNAL_FILE = "journal.json"


class Journal:
    """Remembers the results of finished steps, as JSON, in a folder.

    A step must itself bear being killed and done again: what the journal adds is that a finished one is not repeated.

    Args:
      folder: the run's; it may not exist yet.
      report: is told of each step that is begun.
    Raises:
      ModelError: the folder holds something else.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = folder / JOURNAL_FILE, report
        self.document: dict[str, Any] = {"steps": {}}
        if self._path.exists():
            try:
                self.document = json.loads(self._path.read_bytes())
                dict(self.document["steps"])
            except (OSError, ValueError, KeyError, TypeError) as exc:
                raise ModelError(f"{self._path}: expected the journal of a run, got something else") from exc

    def get(self, name: str) -> Any:
        """What was noted under a name; None where nothing was."""
        return self.document.get(name)

    def note(self, **values: Any) -> None:
        """Writes JSON values down; they are on disk when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.document |= values
        unfinished = self._path.with_name(f".{self._path.name}-unfinished")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(self.document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)

    def step(self, name: str, do: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Does a step, unless it is finished, and returns its result."""
        if (found := self.document["steps"].get(name)) is not None:
            return dict(found)
        self._report(f"── {name}")
        result = json.loads(json.dumps(do()))  # as it is read back
        self.note(steps={**self.document["steps"], name: result})
        return dict(result)

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of a finished step; None where it is not finished."""
        found = self.document["steps"].get(name)
        return None if found is None else dict(found)
