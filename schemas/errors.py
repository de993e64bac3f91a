"""The error tree: what Tidegauge raises when a person or another system must act.

    TidegaugeError
    ├── SpecError            the spec file is wrong                 $.window.horizon
    ├── InputError           a file or its contents cannot be used  file:line
    ├── DatasetError         a dataset folder is missing, partial or of another spec
    ├── ModelError           training, export or a model folder
    │   └── Interrupted          a run was asked to stop, and can be resumed
    ├── LocalStackError      `up`, `down`: ports, Java, state folder
    ├── BrokerError          Kafka, its topics and transactions     topic[partition]@offset
    └── ServingError         the model server
        ├── ServingUnavailable   not reachable, overloaded, still loading; worth a retry
        ├── ServingRefused       it does not take these inputs
        │   └── ServingTooLarge      because they are too many at once
        └── FingerprintMismatch  it serves a model of other windows

A message says what was expected, what came, and where. The command line prints it as one line and exits with
`exit_code`; only an error outside this tree is a defect and shows its traceback. Foreign exceptions are mapped at the
edge where they come in, with `raise ... from exc`.

One bad *record* never raises to the command line: it becomes a dead letter (`schemas.dead_letter`).
"""

from __future__ import annotations


class TidegaugeError(Exception):
    """Base of all expected failures."""

    exit_code = 2
    retriable = False


class SpecError(TidegaugeError):
    """The spec is wrong. The message holds one line for each problem, each with its path (`$.window.horizon`)."""


class InputError(TidegaugeError):
    """An input file or its contents cannot be used."""


class DatasetError(TidegaugeError):
    """A dataset folder is missing, incomplete, damaged or made by another spec."""


class ModelError(TidegaugeError):
    """A model cannot be trained, exported, published or read."""


class Interrupted(ModelError):
    """A run was asked to stop (Ctrl-C, SIGTERM), and stopped so that it can go on."""

    exit_code = 130


class LocalStackError(TidegaugeError):
    """The local Kafka or model server cannot be started, found or stopped."""


class BrokerError(TidegaugeError):
    """Kafka is unreachable, or refuses a topic, a record or a transaction."""


class ServingError(TidegaugeError):
    """The model server refuses a request, or has not the model that was asked for."""


class ServingUnavailable(ServingError):
    """The model server is unreachable, overloaded or still loading: trying again can help."""

    retriable = True


class ServingRefused(ServingError):
    """The model server does not take the inputs of a request; others it may take."""


class ServingTooLarge(ServingRefused):
    """A request or its answer is larger than the model server takes: fewer windows at once can help."""


class FingerprintMismatch(ServingError):
    """The served model was made for other windows than the spec's."""
