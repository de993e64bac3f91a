"""Whether command lines in deploy files are ones that the programs take."""

from __future__ import annotations

from collections.abc import Sequence

import typer.main

from streaming.model_server.flags import parse_flags
from tidegauge import app

VERBS = typer.main.get_command(app)
"""The command line's real definition."""


def check_command(argv: Sequence[str]) -> str:
    """Parses a command line by the real definition of its program, without running it.

    Returns:
      The verb, or the program's name where it has none.
    Raises:
      AssertionError: no program of ours is called so, or it has no such verb.
      Exception: a flag or a value is refused.
    """
    program, *rest = argv
    if program in ("tidegauge-model-server", "tensorflow_model_server", "/usr/bin/tensorflow_model_server"):
        parse_flags(rest)
        return "tidegauge-model-server"
    assert program == "tidegauge", argv
    if rest == ["--help"]:
        return "help"
    verb, *options = rest
    assert verb in VERBS.commands, f"no verb {verb}"
    VERBS.commands[verb].make_context(verb, list(options))
    return verb
