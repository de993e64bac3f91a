"""The state folder: everything that the local stack keeps, in one place that can be deleted.

    .tidegauge/
      tidegauge-state.json   the marker: this folder is ours
      jars/                  downloaded once, checked at every start
      kafka/                 server.properties and the broker's data
      run/NAME.json          the pid file of each process that was started
      log/NAME.log           what it printed; NAME.log.1 is the run before

Only a folder with the marker is ever written to or looked at. One named `.tidegauge` is ours by its name: datasets,
runs and models may lie there before anything is started.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from schemas.errors import LocalStackError

MARKER = "tidegauge-state.json"
NAME = ".tidegauge"


def default_state_dir() -> Path:
    """`$TIDEGAUGE_HOME`, else `.tidegauge` in the current folder; absolute, and not created here."""
    return Path(os.environ.get("TIDEGAUGE_HOME") or NAME).expanduser().absolute()


def claim(state_dir: Path) -> Path:
    """Creates the folder, or checks that it is ours.

    Args:
        state_dir: A folder that does not exist, is empty, was claimed before, or is ours by its name.

    Returns:
        Its absolute path.

    Raises:
        LocalStackError: It holds files of someone else, is no folder, or cannot be written.
    """
    state_dir = state_dir.absolute()
    if is_claimed(state_dir):
        return state_dir
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        foreign = next(state_dir.iterdir(), None)
        if foreign is not None and state_dir.name != NAME:
            raise LocalStackError(
                f"{state_dir} is not a Tidegauge state folder: it has no {MARKER} but holds {foreign.name}; "
                "name an empty or a new folder"
            )
        (state_dir / MARKER).write_text(json.dumps({"made_by": "tidegauge"}) + "\n")
        # Keeps the state out of the user's commits, wherever the folder lies.
        (state_dir / ".gitignore").write_text("*\n")
    except OSError as exc:
        raise LocalStackError(f"the state folder {state_dir} cannot be used: {exc.strerror or exc}") from exc
    return state_dir


def is_claimed(state_dir: Path) -> bool:
    """Whether the folder is a state folder of ours."""
    return (state_dir / MARKER).is_file()
