"""Sessions: a sequence of tokens, its KV cache and its sampler."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import errors
from ._library import Closable, Handle, check, ffi, interruptible, lib, make_exception, new_error
from ._library import string
from .tokenizer import TokensLike, as_tokens, token_pointer

if TYPE_CHECKING:
    from .model import Model

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. All zero: always the likeliest.

    temperature         0 = greedy
    top_p, top_k        0 = off; top_p counts what top_k leaves
    min_p               relative to the likeliest token; 0 = off
    repetition_penalty  0, 1 = off; of every token in the session, as Hugging Face does
    presence_penalty, frequency_penalty
                        subtracted from logits; of tokens that were generated
    seed                the same seed and options give the same tokens
    biases              added to logits by token; -inf forbids one"""

    temperature: float = 0.0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_k: int = 0
    seed: int = 0
    biases: Mapping[int, float] = field(default_factory=dict)

    def _c(self) -> Any:
        """(upg_sampling, what it points to)"""
        c = ffi.new("upg_sampling *")
        c.struct_size = ffi.sizeof("upg_sampling")
        try:
            for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty",
                         "frequency_penalty", "top_k", "seed"):
                setattr(c, name, getattr(self, name))
            biases = ffi.new("upg_scored[]", list(self.biases.items()))
        except (OverflowError, TypeError) as e:
            raise errors.ArgumentError(f"sampling: {e}") from None
        c.biases, c.bias_count = biases, len(biases)
        return c, biases


@dataclass(frozen=True)
class Step:
    """One generated token.

    token    sampled and appended
    logprob  its natural logarithm, before temperature, penalties and masks
    end      it is one of the model's end tokens
    top      the likeliest (token, logprob), best first, as many as asked for"""

    token: int
    logprob: float
    end: bool
    top: tuple[tuple[int, float], ...] = ()


class Session(Closable):
    """One sequence. What it computes equals one full pass over its tokens, whatever led there.

        with model.session() as s:
            s.prefill(model.tokenize("Once upon a time"))
            print(s.step().token)

    One thread at a time, else BusyError; cancel() may come from any thread."""

    def __init__(self, model: Model, *, sampling: Sampling | None = None, context_tokens: int = 0,
                 kv_int8: bool = False, shift_when_full: bool = False, keep_logits: bool = True,
                 _handle: Handle | None = None) -> None:
        """model            keeps it alive until close()
        sampling         None = as the model's generation_config.json asks for
        context_tokens   0 = the model's
        kv_int8          half the memory of fp16
        shift_when_full  drop the oldest half of a full context; else ContextError
        keep_logits      `logits` is there after every call

        Raises ArgumentError, OutOfMemoryError."""
        self.model = model
        self._vocab_size = model.info.vocab_size
        self._stale_cancel = False
        if _handle is None:
            options = session_options(context_tokens, kv_int8, shift_when_full, keep_logits)
            out, error = ffi.new("upg_session **"), new_error()
            with model._handle as m:
                check(lib.upg_session_create(m, options, out, error), error)
            _handle = Handle("session", out[0], lib.upg_session_close)
            self._handle = _handle
            self.set_sampling(model.sampling if sampling is None else sampling)
        self._handle: Handle = _handle

    def __enter__(self) -> Session:
        return self

    def __len__(self) -> int:
        """Tokens in the session."""
        with self._handle as s:
            return int(lib.upg_session_length(s))

    def __bool__(self) -> bool:
        return True

    def set_sampling(self, sampling: Sampling) -> None:
        """For the tokens to come. ArgumentError names field and value; nothing changes then."""
        c, memory = sampling._c()
        error = new_error()
        with self._handle as s:
            check(lib.upg_session_set_sampling(s, c, error), error)
        del memory

    def prefill(self, tokens: TokensLike, *, logits: bool = False) -> Logits | None:
        """Appends i32 [n] tokens.

        logits  returns f32 [n][vocab_size]; row i predicts what follows tokens[i]. The library
                writes into the array itself; else None

        Ctrl-C ends it within one op; len() then tells how many tokens were taken.
        Raises ArgumentError, ContextError (none were taken), CancelledError."""
        array = as_tokens(tokens)
        pointer, error, n = token_pointer(array), new_error(), len(array)
        out = np.empty((n, self._vocab_size), np.float32) if logits else None
        room = ffi.NULL if out is None or n == 0 else ffi.from_buffer("float[]", out)

        def call() -> tuple[int, bool]:
            with self._handle as s:
                before = lib.upg_session_length(s)
                status = lib.upg_prefill(s, pointer, n, room, error)
                return status, bool(lib.upg_session_length(s) == before)

        status, unchanged = interruptible(call, self._interrupt)
        if self._was_stale(status) and unchanged:
            status, _ = interruptible(call, self._interrupt)
        check(status, error)
        return out

    def step(self, *, top: int = 0, allowed: npt.NDArray[np.bool_] | None = None) -> Step:
        """Samples and appends one token.

        top      how many of the likeliest tokens to return too
        allowed  bool [vocab_size]: tokens that may be sampled; None = all

        Raises StateError (empty session), ContextError, CancelledError, ArgumentError."""
        step = decode([self], top=top, allowed=None if allowed is None else [allowed])[0]
        if isinstance(step, errors.UpgError):
            raise step
        return step

    @property
    def logits(self) -> Logits:
        """f32 [vocab_size]: what follows the last token. A read-only view of the session's own
        memory, without a copy: the next call changes it; it stays readable after close().

        Raises StateError before the first token, after a rewind, and without keep_logits."""
        out, error = ffi.new("const float **"), new_error()
        s = self._handle.retain()
        try:
            check(lib.upg_session_logits(s, out, error), error)
        except BaseException:
            self._handle.release()
            raise
        handle = self._handle
        # The view keeps this, and this keeps the session's memory.
        memory = ffi.gc(out[0], lambda _: handle.release())
        view = np.frombuffer(ffi.buffer(memory, 4 * self._vocab_size), np.float32)
        view.flags.writeable = False
        return view

    def fork(self, tokens: int | None = None) -> Session:
        """A new session that shares the first `tokens` tokens (None = all), copy on write, with
        the same options and sampling. ArgumentError when there are fewer."""
        out, error = ffi.new("upg_session **"), new_error()
        with self._handle as s:
            n = lib.upg_session_length(s) if tokens is None else _u32("tokens", tokens)
            check(lib.upg_session_fork(s, n, out, error), error)
        return Session(self.model, _handle=Handle("session", out[0], lib.upg_session_close))

    def rewind(self, tokens: int) -> None:
        """Cuts the session to its first `tokens` tokens. ArgumentError when there are fewer."""
        error = new_error()
        with self._handle as s:
            check(lib.upg_session_rewind(s, _u32("tokens", tokens), error), error)

    def cancel(self) -> None:
        """The running, else the next, prefill or step raises CancelledError, within one op and at
        a whole number of tokens. Any thread may call it; the session stays usable."""
        self._stale_cancel = False
        with self._handle as s:
            lib.upg_session_cancel(s)

    def _interrupt(self) -> None:
        # If the call had just ended, the request would hit the next one: that one tries again.
        self._stale_cancel = True
        try:
            with self._handle as s:
                lib.upg_session_cancel(s)
        except errors.StateError:
            pass  # closed meanwhile

    def _was_stale(self, status: int) -> bool:
        stale = self._stale_cancel
        self._stale_cancel = False
        return stale and status == lib.UPG_E_CANCELLED


def session_options(context_tokens: int, kv_int8: bool, shift_when_full: bool,
                    keep_logits: bool) -> Any:
    """A upg_session_options."""
    options = ffi.new("upg_session_options *")
    options.struct_size = ffi.sizeof("upg_session_options")
    options.context_tokens = _u32("context_tokens", context_tokens)
    options.kv_int8, options.shift_when_full = kv_int8, shift_when_full
    options.keep_logits = keep_logits
    return options


def _u32(name: str, value: int) -> int:
    if not 0 <= value < 1 << 32:
        raise errors.ArgumentError(f"{name} is {value}: 0 to {(1 << 32) - 1}")
    return value


def _mask(allowed: npt.NDArray[np.bool_], vocab: int) -> Any:
    """Bit t % 32 of word t / 32."""
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (vocab,):
        raise errors.ArgumentError(f"allowed is {mask.dtype} {list(mask.shape)}, "
                                   f"not bool [{vocab}]")
    bits = np.zeros(-(-vocab // 32) * 4, np.uint8)
    packed = np.packbits(mask, bitorder="little")
    bits[:len(packed)] = packed
    return ffi.from_buffer("uint32_t[]", bits.view("<u4").astype(np.uint32))


def decode(sessions: Sequence[Session], *, top: int = 0,
           allowed: Sequence[npt.NDArray[np.bool_] | None] | None = None
           ) -> list[Step | errors.UpgError]:
    """One token for each session of one model, in one pass over the weights.

    top      how many of the likeliest tokens to return with each step
    allowed  for each session None or bool [vocab_size], the tokens that may be sampled

    The list has, for each session, its step or what went wrong with this session alone
    (ContextError, CancelledError, StateError, ...), as a value.
    Raises ArgumentError, BusyError, DeviceLostError for the call as a whole."""
    results = _decode(sessions, top, allowed)
    for i, (session, result) in enumerate(zip(sessions, results)):
        status = lib.UPG_E_CANCELLED if isinstance(result, errors.CancelledError) else lib.UPG_OK
        if session._was_stale(status):
            results[i] = _decode([session], top, allowed and [allowed[i]])[0]
    return results


def _decode(sessions: Sequence[Session], top: int,
            allowed: Sequence[npt.NDArray[np.bool_] | None] | None) -> list[Step | errors.UpgError]:
    n = len(sessions)
    if allowed is not None and len(allowed) != n:
        raise errors.ArgumentError(f"{len(allowed)} masks for {n} sessions")
    steps, pointers, memory = ffi.new("upg_step[]", n), ffi.new("upg_session *[]", n), []
    held: list[Handle] = []
    try:
        for i, session in enumerate(sessions):
            pointers[i] = session._handle.retain()
            held.append(session._handle)
            mask = allowed[i] if allowed is not None else None
            if mask is not None:
                memory.append(_mask(mask, session._vocab_size))
                steps[i].allowed = memory[-1]
            if top:
                memory.append(ffi.new("upg_scored[]", _u32("top", top)))
                steps[i].top, steps[i].top_count = memory[-1], top
        error = new_error()
        check(lib.upg_decode(pointers, n, steps, error), error)
        return [_result(steps[i], pointers[i], top) for i in range(n)]
    finally:
        for handle in held:
            handle.release()


def _result(step: Any, pointer: Any, top: int) -> Step | errors.UpgError:
    if step.status != lib.UPG_OK:
        return make_exception(step.status, string(lib.upg_session_message(pointer)))
    likeliest = tuple((step.top[k].token, step.top[k].value) for k in range(top))
    return Step(step.token, step.logprob, bool(step.end), likeliest)
