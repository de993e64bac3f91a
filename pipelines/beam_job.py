"""Runs a Beam pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from schemas.errors import InputError

_IN_PROCESS = (None, "FnApiRunner", "DirectRunner", "BundleBasedDirectRunner")


def run_pipeline(build: Callable[[beam.Pipeline], None], beam_args: Sequence[str]) -> None:
    """Builds a pipeline and runs it to its end.

    Args:
      build: applies the transforms.
      beam_args: Beam's options. Without a `--runner` it is the FnApiRunner in this process, by name: Beam's own default
        downloads another runner and silently falls back when it cannot.
    Raises:
      InputError: there is an option that Beam does not know, or a value that it does not take.
    """
    options = parse_options(beam_args)
    runner = options.view_as(StandardOptions).runner
    try:
        pipeline = beam.Pipeline(runner=FnApiRunner() if runner in (None, "FnApiRunner") else runner, options=options)
    except ValueError as exc:
        raise InputError(f"Beam's options: {' '.join(str(exc).split())}") from exc
    build(pipeline)
    pipeline.run().wait_until_finish()


def parse_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Beam's options. Beam itself only logs those that it does not know.

    A job server may have options of its own, so for a runner that is elsewhere only those are refused that are one of
    Beam's but for the spelling.

    Raises:
      InputError: as for `run_pipeline`.
    """
    parser = _Parser(prog="Beam", add_help=False, allow_abbrev=False)
    for section in PipelineOptions.__subclasses__():
        if "_add_argparse_args" in vars(section):
            section._add_argparse_args(parser)
    known, unknown = parser.parse_known_args(list(beam_args))
    names = [name for action in parser._actions for name in action.option_strings]
    for argument in unknown:
        name = argument.partition("=")[0]
        close = get_close_matches(name, names, n=1, cutoff=0.8)
        if close or known.runner in _IN_PROCESS:
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"{argument}: expected an option of Beam's{hint}")
    return PipelineOptions(list(beam_args))


class _Parser(argparse.ArgumentParser):
    """A parser that takes an option twice, as sections of Beam's declare it, and raises our error."""

    def __init__(self, **settings: object) -> None:
        super().__init__(conflict_handler="resolve", **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> None:  # type: ignore[override]
        raise InputError(f"Beam's options: {message}")
