"""What can go wrong: one exception class for each status code of upg/status.h.

Every class derives from UpgError and, where Python has a class of that meaning, from that one too:
`except FileNotFoundError` catches NotFoundError."""
from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The status codes of upg/status.h. Values are part of the ABI."""

    OK = 0
    ARG = 1
    STATE = 2
    BUSY = 3
    BUFFER = 4
    NOMEM = 10
    BUDGET = 11
    CONTEXT = 12
    IO = 20
    NOT_FOUND = 21
    EXISTS = 22
    NOSPACE = 23
    FORMAT = 30
    VERSION = 31
    CORRUPT = 32
    UNSUPPORTED = 33
    DATA = 34
    DEVICE = 40
    DEVICE_LOST = 41
    CANCELLED = 50
    INTERNAL = 90


class UpgError(Exception):
    """Base of all errors.

    code       Status
    message    what went wrong, with file, field, value and what to do
    os_errno   errno of the system call that failed, 0 without one
    retryable  may pass by itself: memory, disk space, a busy object"""

    code: Status = Status.INTERNAL
    retryable: bool = False

    def __init__(self, message: str, os_errno: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.os_errno = os_errno

    def __str__(self) -> str:
        return self.message


class ArgumentError(UpgError, ValueError):
    """An argument is out of range."""

    code = Status.ARG


class StateError(UpgError):
    """Not allowed in this state: no logits yet, an empty session, a closed object."""

    code = Status.STATE


class BusyError(UpgError):
    """Another thread is using the object."""

    code = Status.BUSY


class BufferTooSmallError(UpgError):
    """Grown and tried again inside this package; never seen outside of it."""

    code = Status.BUFFER


class OutOfMemoryError(UpgError, MemoryError):
    """Out of memory."""

    code = Status.NOMEM


class BudgetError(UpgError):
    """Impossible within the size or memory asked for; the message says what would do."""

    code = Status.BUDGET


class ContextError(UpgError, ValueError):
    """The text does not fit the context; the message has both counts. Nothing was cut off."""

    code = Status.CONTEXT


class IoError(UpgError, OSError):
    """Reading or writing failed."""

    code = Status.IO


class NotFoundError(UpgError, FileNotFoundError):
    """No such file, or a part of a checkpoint is not there."""

    code = Status.NOT_FOUND


class ExistsError(UpgError, FileExistsError):
    """The output exists: overwrite=True replaces it."""

    code = Status.EXISTS


class NoSpaceError(UpgError, OSError):
    """The disk is full."""

    code = Status.NOSPACE


class FormatError(UpgError, ValueError):
    """The file is malformed."""

    code = Status.FORMAT


class VersionError(UpgError):
    """The file is of a newer format than this library."""

    code = Status.VERSION


class CorruptError(UpgError):
    """A checksum does not match.

    offset  file offset of the first bad chunk from verify(), else None"""

    code = Status.CORRUPT
    offset: int | None = None


class UnsupportedError(UpgError):
    """Valid, but not supported: an architecture, a chat template, an option."""

    code = Status.UNSUPPORTED


class DataError(UpgError, ValueError):
    """Weights or text hold invalid values."""

    code = Status.DATA


class DeviceError(UpgError):
    """No such device, or its driver failed."""

    code = Status.DEVICE


class DeviceLostError(UpgError):
    """The device was lost: open the model again."""

    code = Status.DEVICE_LOST


class CancelledError(UpgError):
    """Cancelled, by cancel()."""

    code = Status.CANCELLED


class InternalError(UpgError):
    """A bug in upg; please report it."""

    code = Status.INTERNAL


CLASSES: dict[Status, type[UpgError]] = {
    c.code: c
    for c in (
        ArgumentError, StateError, BusyError, BufferTooSmallError, OutOfMemoryError, BudgetError,
        ContextError, IoError, NotFoundError, ExistsError, NoSpaceError, FormatError, VersionError,
        CorruptError, UnsupportedError, DataError, DeviceError, DeviceLostError, CancelledError,
        InternalError,
    )
}
