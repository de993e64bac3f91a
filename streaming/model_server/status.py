"""Statuses as TensorFlow Serving answers them: a canonical code and a message.

Everything that a request can meet is raised as `StatusError`; `status_of` is the one edge where exceptions of
TensorFlow, numpy or a defect of ours become one. What a client sees is always a code and a sentence, never a traceback.
"""

from __future__ import annotations

import enum
import logging

from schemas.errors import ServingError

_log = logging.getLogger(__name__)

_MESSAGE_LIMIT = 1024


class Code(enum.IntEnum):
    """The canonical codes, numbered as in gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(ServingError):
    """A request, or the loading of a model, ends with this status."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message: str) -> StatusError:
    """The request is wrong, whatever the state of the server."""
    return StatusError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> StatusError:
    """The model, version or file does not exist here."""
    return StatusError(Code.NOT_FOUND, message)


def failed_precondition(message: str) -> StatusError:
    """The server or the model is not in the state that the request needs."""
    return StatusError(Code.FAILED_PRECONDITION, message)


def status_of(error: BaseException) -> StatusError:
    """The status that a client gets for `error`.

    A `tf.errors.OpError` is known by its `error_code`, so that this module needs no TensorFlow. Anything unexpected is
    INTERNAL; its traceback goes to the log.
    """
    if isinstance(error, StatusError):
        return error
    code = getattr(error, "error_code", None)
    if isinstance(code, int) and 0 < code <= Code.UNAUTHENTICATED:
        return StatusError(Code(code), str(getattr(error, "message", error)))
    if isinstance(error, MemoryError):
        return StatusError(Code.RESOURCE_EXHAUSTED, "out of memory")
    _log.error("unexpected %s", type(error).__name__, exc_info=error)
    return StatusError(Code.INTERNAL, f"internal error: {type(error).__name__}")


def wire_message(message: str) -> str:
    """Cuts a message to the length at which TensorFlow Serving cuts it."""
    return message if len(message) <= _MESSAGE_LIMIT else message[:_MESSAGE_LIMIT] + "...TRUNCATED"
