"""libupg, loaded; how its errors, strings and objects become Python's.

cffi releases the GIL during every call. A signal handler of Python runs only between byte codes of
the main thread, so a call that may take long is made by `interruptible`."""
from __future__ import annotations

import _thread
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from . import errors
from ._abi import ffi as ffi

T = TypeVar("T")


def _load() -> Any:
    """The bundled library, or the one that UPG_LIBRARY names."""
    name = "libupg.dylib" if sys.platform == "darwin" else "libupg.so"
    path = os.environ.get("UPG_LIBRARY") or os.path.join(os.path.dirname(__file__), name)
    try:
        library = ffi.dlopen(path)
    except OSError as e:
        raise ImportError(f"upg cannot load its library: {e}") from None
    have, want = library.upg_abi_version(), library.UPG_HEADER_ABI_VERSION
    if have != want:
        raise ImportError(f"{path} has ABI version {have}, this package was made for {want}: "
                          "install the package that belongs to the library")
    return library


lib = _load()


# ---- errors -------------------------------------------------------------------------------------
def new_error() -> Any:
    """A upg_error to pass to one call."""
    return ffi.new("upg_error *")


def make_exception(status: int, message: str, os_errno: int = 0) -> errors.UpgError:
    """The exception for a status code."""
    try:
        kind = errors.CLASSES[errors.Status(status)]
    except (ValueError, KeyError):  # a newer library has a code that this package does not know
        return errors.InternalError(f"status {status}: {message}", os_errno)
    e = kind(message or string(lib.upg_status_text(status)), os_errno)
    e.retryable = bool(lib.upg_status_retryable(status))
    return e


def check(status: int, error: Any) -> None:
    """Raises when a call failed."""
    if status != lib.UPG_OK:
        raise make_exception(status, string(error.message), error.os_errno)


# ---- text ---------------------------------------------------------------------------------------
def string(text: Any) -> str:
    """A NUL-terminated string of the library; "" for NULL."""
    return ffi.string(text).decode("utf-8", "replace") if text else ""


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path for the library."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise errors.ArgumentError(f"a path contains a zero byte: {path!r}")
    return name


def utf8(text: str) -> bytes:
    """Text for the library. DataError for lone surrogates, which UTF-8 does not have."""
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise errors.DataError(f"the text has a lone surrogate at character {e.start}") from None


# ---- objects ------------------------------------------------------------------------------------
class Handle:
    """Owns an object of the library: `with handle as pointer:`.

    close() may come at any time, from any thread, any number of times: the object goes when the
    last `with` (and the last view, see retain) has ended."""

    __slots__ = ("_what", "_pointer", "_free", "_users", "_closed", "_lock")

    def __init__(self, what: str, pointer: Any, free: Callable[[Any], None]) -> None:
        self._what = what
        self._pointer = pointer
        self._free = free
        self._users = 0
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Any:
        return self.retain()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()

    def retain(self) -> Any:
        """The pointer, good until release(). StateError when closed."""
        with self._lock:
            if self._closed:
                raise errors.StateError(f"the {self._what} is closed")
            self._users += 1
            return self._pointer

    def release(self) -> None:
        """Ends one retain()."""
        with self._lock:
            self._users -= 1
            self._free_if_unused()

    def close(self) -> None:
        """No more retain(); frees now or when the last user is done."""
        with self._lock:
            self._closed = True
            self._free_if_unused()

    @property
    def closed(self) -> bool:
        return self._closed

    def _free_if_unused(self) -> None:
        if self._closed and self._users == 0 and self._pointer is not None:
            pointer, self._pointer = self._pointer, None
            self._free(pointer)

    def __del__(self) -> None:
        if self._pointer is not None:
            self._free(self._pointer)
            self._pointer = None


class Part:
    """What an object lends: used as a Handle, good as long as the object is open."""

    __slots__ = ("_whole", "_pointer")

    def __init__(self, whole: Handle, pointer: Any) -> None:
        self._whole = whole
        self._pointer = pointer

    def __enter__(self) -> Any:
        self._whole.retain()
        return self._pointer

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._whole.release()

    def close(self) -> None:
        """Nothing: the object closes it."""

    @property
    def closed(self) -> bool:
        return self._whole.closed


class Closable:
    """A context manager around one handle."""

    _handle: Handle | Part

    def close(self) -> None:
        """Gives the object back. May be called twice, and in any order with other objects."""
        self._handle.close()

    @property
    def closed(self) -> bool:
        """True after close()."""
        return self._handle.closed

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


# ---- signals ------------------------------------------------------------------------------------
def interruptible(call: Callable[[], T], cancel: Callable[[], None]) -> T:
    """call(), a long one. In the main thread it runs in a helper, so that an exception out of a
    signal handler (KeyboardInterrupt) does not wait for its end: then cancel() is called, the call
    awaited, and the exception goes on. `call` itself keeps alive what it uses."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    done = threading.Event()
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as e:
            failure.append(e)
        finally:
            done.set()

    # Not a threading.Thread: an interrupt inside its start() leaves unknown whether it runs.
    try:
        _thread.start_new_thread(run, ())
        while not done.wait(0.1):  # a signal that another thread took wakes nobody
            pass
    except BaseException as e:
        if isinstance(e, RuntimeError) and "start new thread" in str(e):
            raise
        cancel()
        done.wait()
        raise
    if failure:
        raise failure[0]
    return result[0]
