"""Progress and log messages of long operations, as callbacks of Python.

They come on the calling thread. While the library calls back, Python looks at its signals: so
Ctrl-C ends these operations too, within a tenth of a second or so."""
from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._library import check, ffi, lib, string

logger = logging.getLogger("upg")
_LEVELS = {
    lib.UPG_LOG_ERROR: logging.ERROR, lib.UPG_LOG_WARN: logging.WARNING,
    lib.UPG_LOG_INFO: logging.INFO, lib.UPG_LOG_DEBUG: logging.DEBUG,
}


@dataclass(frozen=True)
class Progress:
    """How far a long operation is.

    stage    "calibrate", "encode", "verify", ...
    unit     of done and total: "bytes", "weights", ...
    done     units done; total: 0 = not known
    rate     units per second now
    seconds  seconds left, < 0 = not known
    part     what of the stage is at work: "embedding", "layer", "head"; "" = nothing named
    part_index, parts
             its number, from 1 on, of how many of its name
    part_done, part_total
             of it, in units
    loss     "encode": relative squared error of what was coded so far; < 0 = not known"""

    stage: str
    unit: str
    done: int
    total: int
    rate: float
    seconds: float
    part: str = ""
    part_index: int = 0
    parts: int = 0
    part_done: int = 0
    part_total: int = 0
    loss: float = -1.0


ProgressCallback = Callable[[Progress], object]


class Hooks:
    """A upg_hooks for one call. What a callback raises cancels the operation and comes out of
    `check`."""

    def __init__(self, progress: ProgressCallback | None = None) -> None:
        self._report = progress
        self._raised: BaseException | None = None
        # onerror also gets what is raised outside of the bodies, such as KeyboardInterrupt.
        self._progress = ffi.callback("int(void *, const upg_progress *)", self._on_progress,
                                      error=1, onerror=self._on_error)
        self._log = ffi.callback("void(void *, upg_log, const char *)", self._on_log,
                                 onerror=self._on_error)

    def fill(self, hooks: Any) -> None:
        """Sets a upg_hooks, which must not outlive self."""
        hooks.progress = self._progress
        hooks.log = self._log

    def check(self, status: int, error: Any) -> None:
        """Raises what a callback raised, else what the library says."""
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        check(status, error)

    def _on_progress(self, _user: Any, now: Any) -> int:
        if self._raised is not None:  # out of the log
            return 1
        if self._report:
            self._report(Progress(string(now.stage), string(now.unit), now.done, now.total,
                                  now.rate, now.seconds, string(now.part) if now.part else "",
                                  now.part_index, now.parts, now.part_done, now.part_total,
                                  now.loss))
        return 0

    def _on_log(self, _user: Any, level: int, message: Any) -> None:
        logger.log(_LEVELS.get(level, logging.DEBUG), "%s", string(message))

    def _on_error(self, _kind: Any, value: BaseException, _trace: Any) -> None:
        self._raised = value
