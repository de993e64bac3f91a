"""Runs a Beam pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def run_pipeline(build: Callable[[beam.Pipeline], None], beam_args: Sequence[str]) -> None:
    """Builds a pipeline and runs it to its end.

    Args:
      build: applies the transforms.
      beam_args: Beam's options. Without a `--runner` it is the FnApiRunner in this process, by name: Beam's own default
        downloads another runner and silently falls back when it cannot.
    """
    options = PipelineOptions(list(beam_args))
    runner = options.view_as(StandardOptions).runner or FnApiRunner()
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    pipeline.run().wait_until_finish()
