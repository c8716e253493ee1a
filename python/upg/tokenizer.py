"""Text to tokens and back."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import errors
from ._library import Closable, Handle, Part, check, ffi, lib, new_error, path_bytes, utf8

Tokens = npt.NDArray[np.int32]
TokensLike = Sequence[int] | npt.NDArray[Any]
Message = Mapping[str, str]


def as_tokens(tokens: TokensLike) -> Tokens:
    """i32 [n] out of any sequence of integers. ArgumentError for other types and shapes."""
    array = np.asarray(tokens)
    if array.size == 0:
        array = array.astype(np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise errors.ArgumentError(f"tokens are {array.dtype} {list(array.shape)}, not integers "
                                   "in one dimension")
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise errors.ArgumentError("a token does not fit 32 bits")
    return np.ascontiguousarray(array, np.int32)


def token_pointer(tokens: Tokens) -> Any:
    """The array's memory as const upg_token *; keeps the array alive."""
    return ffi.from_buffer("upg_token[]", tokens)


def _fill(kind: str, guess: int, call: Any) -> Any:
    """(cdata [cap], n) of a (buf, cap, *n) function: tries a guess, then the size needed."""
    n, error, cap = ffi.new("size_t *"), new_error(), max(guess, 16)
    while True:
        buffer = ffi.new(f"{kind}[]", cap)
        status = call(buffer, cap, n, error)
        if status != lib.UPG_E_BUFFER:
            check(status, error)
            return buffer, n[0]
        cap = n[0]


def _array(filled: Any) -> Tokens:
    buffer, n = filled
    return np.frombuffer(ffi.buffer(buffer, n * 4), np.int32) if n else np.empty(0, np.int32)


class _Messages:
    """Chat messages as the library's array."""

    def __init__(self, messages: Iterable[Message]) -> None:
        pairs = []
        for i, message in enumerate(messages):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise errors.ArgumentError(f'messages[{i}] is no mapping with "role" and "content"')
            role, content = utf8(message["role"]), utf8(message["content"])
            if b"\0" in role:
                raise errors.ArgumentError(f"messages[{i}]: the role contains a zero byte")
            pairs.append((ffi.new("char[]", role), ffi.new("char[]", content), len(content)))
        self._memory = pairs
        self.count = len(pairs)
        self.array = ffi.new("upg_message[]", pairs)


class Tokenizer(Closable):
    """A checkpoint's tokenizer. Any thread may use it.

        with Tokenizer.open("model.upg") as t:
            tokens = t.tokenize("Hello")
    """

    def __init__(self, handle: Handle | Part) -> None:
        """For the package itself: use open() or Model.tokenizer."""
        self._handle = handle

    def __enter__(self) -> Tokenizer:
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """From a .upg file, a checkpoint folder or a tokenizer.json.

        Raises NotFoundError, FormatError, UnsupportedError."""
        out, error = ffi.new("upg_tokenizer **"), new_error()
        check(lib.upg_tokenizer_open(path_bytes(path), out, error), error)
        return cls(Handle("tokenizer", out[0], lib.upg_tokenizer_close))

    def __len__(self) -> int:
        """One more than the largest token id."""
        with self._handle as tokenizer:
            return int(lib.upg_tokenizer_size(tokenizer))

    def tokenize(self, text: str, *, special: bool = False) -> Tokens:
        """i32 [n]: tokens as the checkpoint's own tokenizer.json gives them.

        special  "<|im_start|>" and the like in the text become control tokens

        Raises DataError for lone surrogates in the text."""
        data, flags = utf8(text), lib.UPG_TOK_SPECIAL if special else 0
        with self._handle as t:
            return _array(_fill("upg_token", len(data) // 2 + 8, lambda buffer, cap, n, error:
                                lib.upg_tokenize(t, data, len(data), flags, buffer, cap, n, error)))

    def detokenize(self, tokens: TokensLike, *, skip_special: bool = False) -> str:
        """The text of i32 [n] tokens, with U+FFFD for bytes that are no UTF-8.

        Raises ArgumentError, naming the index of a token that is out of range."""
        array = as_tokens(tokens)
        pointer = token_pointer(array)
        with self._handle as t:
            buffer, n = _fill("char", 8 * len(array), lambda buffer, cap, n, error:
                              lib.upg_detokenize(t, pointer, len(array), skip_special, buffer, cap,
                                                 n, error))
        return bytes(ffi.buffer(buffer, n)).decode() if n else ""

    def chat_tokens(self, messages: Iterable[Message], *, add_generation_prompt: bool = True,
                    special: bool = False) -> Tokens:
        """i32 [n]: a chat by the model's own template.

        messages  each {"role": "system" | "user" | "assistant", "content": text}
        special   control tokens in the messages' text count as such: for trusted text only

        Raises UnsupportedError for a template that is not recognised: use raw prompts."""
        chat, flags = _Messages(messages), lib.UPG_TOK_SPECIAL if special else 0
        with self._handle as t:
            return _array(_fill("upg_token", 1024, lambda buffer, cap, n, error:
                                lib.upg_chat_tokens(t, chat.array, chat.count,
                                                    add_generation_prompt, flags, buffer, cap, n,
                                                    error)))

    def chat_text(self, messages: Iterable[Message], *, add_generation_prompt: bool = True) -> str:
        """A chat as text, as Hugging Face's apply_chat_template renders it. Raises as above."""
        chat = _Messages(messages)
        with self._handle as t:
            buffer, n = _fill("char", 4096, lambda buffer, cap, n, error:
                              lib.upg_chat_text(t, chat.array, chat.count, add_generation_prompt,
                                                buffer, cap, n, error))
        return bytes(ffi.buffer(buffer, n)).decode()


class TextStream(Closable):
    """Tokens to text piece by piece: never half a character, never a part of a stop string."""

    def __init__(self, tokenizer: Tokenizer, *, stop: str | Sequence[str] = (),
                 show_special: bool = False) -> None:
        """stop  the text ends before the first of these strings

        Raises ArgumentError for an empty stop string."""
        stops = [utf8(s) for s in ([stop] if isinstance(stop, str) else stop)]
        for s in stops:
            if b"\0" in s:
                raise errors.ArgumentError("a stop string contains a zero byte")
        texts = [ffi.new("char[]", s) for s in stops]
        array = ffi.new("const char *[]", texts)
        options = ffi.new("upg_stream_options *")
        options.struct_size = ffi.sizeof("upg_stream_options")
        options.stops, options.stop_count = array, len(texts)
        options.show_special = show_special
        out, error = ffi.new("upg_stream **"), new_error()
        with tokenizer._handle as t:
            check(lib.upg_stream_create(t, options, out, error), error)
        self._handle = Handle("stream", out[0], lib.upg_stream_close)
        self.stopped = False  # a stop string was met

    def __enter__(self) -> TextStream:
        return self

    def push(self, token: int) -> str:
        """Adds a token; text, possibly empty, that is safe to show. Sets `stopped`.

        Raises ArgumentError for a token that is out of range."""
        text, n, stopped = ffi.new("const char **"), ffi.new("size_t *"), ffi.new("bool *")
        error = new_error()
        with self._handle as stream:
            check(lib.upg_stream_push(stream, token, text, n, stopped, error), error)
            self.stopped = bool(stopped[0])
            return bytes(ffi.buffer(text[0], n[0])).decode() if n[0] else ""

    def flush(self) -> str:
        """What is held back, at the end of the tokens."""
        return self.push(-1)


