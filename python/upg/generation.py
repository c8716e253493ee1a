"""A running generation: an iterator of text."""
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal

from . import errors
from .session import Sampling, Session
from .tokenizer import TextStream, Tokenizer, Tokens

FinishReason = Literal["end", "stop", "length", "context", "cancelled"]


class Generation(Iterator[str]):
    """Text pieces as they become safe to show. `"".join(generation)` is the whole text.

    prompt_tokens  tokens of the prompt
    tokens         list of the tokens generated so far, an end token included
    finish_reason  None while it runs; then "end" (the model's own end), "stop" (a stop string),
                   "length" (max_tokens), "context" (it is full), "cancelled"
    sampling       what it runs with, the seed included

    Ctrl-C, an error and close() end it and free its session."""

    def __init__(self, session: Session, tokenizer: Tokenizer, prompt: Tokens, sampling: Sampling,
                 *, max_tokens: int | None, stop: str | Sequence[str], show_special: bool) -> None:
        """For the package itself: use Model.generate or Model.chat. Takes the session."""
        self._session = session
        self._stream = TextStream(tokenizer, stop=stop, show_special=show_special)
        self._prompt: Tokens | None = prompt
        self._max_tokens = max_tokens
        self._next = threading.Lock()
        self.prompt_tokens = len(prompt)
        self.tokens: list[int] = []
        self.sampling = sampling
        self.finish_reason: FinishReason | None = None

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        """The next piece, never empty."""
        if not self._next.acquire(blocking=False):
            raise errors.BusyError("the generation is in use by another thread")
        try:
            return self._piece()
        except errors.CancelledError:
            self.close()
            raise StopIteration from None
        except errors.StateError:
            if self._stream.closed:  # by another thread, meanwhile
                raise StopIteration from None
            self.close()
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._next.release()

    def _piece(self) -> str:
        if self.finish_reason is not None:
            raise StopIteration
        if self._prompt is not None:
            prompt, self._prompt = self._prompt, None
            self._session.prefill(prompt)
        text = ""
        while not text and self.finish_reason is None:
            text = self._step()
        if self.finish_reason is not None:
            if not self._stream.stopped:
                text += self._stream.flush()
            self.close()
            if not text:
                raise StopIteration
        return text

    def _step(self) -> str:
        if self._max_tokens is not None and len(self.tokens) >= self._max_tokens:
            self.finish_reason = "length"
            return ""
        try:
            step = self._session.step()
        except errors.ContextError:
            self.finish_reason = "context"
            return ""
        self.tokens.append(step.token)
        if step.end:
            self.finish_reason = "end"
            return ""
        text = self._stream.push(step.token)
        if self._stream.stopped:
            self.finish_reason = "stop"
        return text

    def cancel(self) -> None:
        """Ends the iteration within one op; any thread may call it."""
        try:
            self._session.cancel()
        except errors.StateError:
            pass  # it has ended

    def close(self) -> None:
        """Ends it and frees its session. finish_reason becomes "cancelled" if it was running."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        self._session.close()
        self._stream.close()

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
