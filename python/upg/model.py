"""Models: opened, described, run."""
from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypedDict

from . import errors
from ._hooks import Hooks, ProgressCallback
from ._library import Closable, Handle, Part, check, ffi, lib, new_error, path_bytes, string
from .evaluation import Evaluation, evaluate
from .generation import Generation
from .session import Logits, Sampling, Session, session_options
from .tokenizer import Message, Tokenizer, Tokens, TokensLike, as_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GenerateOptions(TypedDict, total=False):
    """What generate() and chat() share."""

    stop: str | Sequence[str]
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    biases: Mapping[int, float] | None
    context_tokens: int
    kv_int8: bool
    shift_when_full: bool


@dataclass(frozen=True)
class ModelInfo:
    """What a model is.

    device              what really runs: "cpu avx512vbmi, 8 threads"
    context_tokens      the longest sequence
    weight_bytes        the tensors alone; file_bytes: everything
    source_bytes        the checkpoint as shipped
    bits_per_parameter  8 * file_bytes / parameters
    ratio_fp32, ratio_source
                        how many times smaller than the parameters in fp32, than the checkpoint
    quality             measured at compression, {} when it was not"""

    architecture: str
    device: str
    layers: int
    vocab_size: int
    context_tokens: int
    parameters: int
    file_bytes: int
    weight_bytes: int
    source_bytes: int
    bits_per_parameter: float
    ratio_fp32: float
    ratio_source: float
    quality: dict[str, Any]


@dataclass(frozen=True)
class TensorInfo:
    """A weight tensor.

    shape            (rows, columns), row-major
    bits_per_weight  scales and outliers included
    relative_error   |W - W'|^2 / |W|^2 as measured at compression, None when it was not
    outliers, outlier_columns
                     single weights and columns kept beside the code"""

    name: str
    shape: tuple[int, ...]
    bytes: int
    bits_per_weight: float
    relative_error: float | None
    outliers: int
    outlier_columns: int


class Model(Closable):
    """A .upg file or a checkpoint folder, ready to run. Immutable: any thread may use it.

        with upg.Model.open("model.upg") as model:
            for text in model.chat([{"role": "user", "content": "Who are you?"}]):
                print(text, end="", flush=True)

    Sessions and generations keep what they need of it: the order of closing is free."""

    def __init__(self, handle: Handle) -> None:
        """For the package itself: use open()."""
        self._handle: Handle = handle

    def __enter__(self) -> Model:
        return self

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, device: str | None = None, threads: int = 0,
             verify: str = "header", max_memory: int = 0,
             progress: ProgressCallback | None = None) -> Model:
        """Opens a .upg file or a checkpoint folder (safetensors, run unquantised).

        device      "cpu", "ref", "cuda:0", ...; None = the best there is (logged by `logging`)
        threads     CPU threads; 0 = one per physical core
        verify      checksums: "header" only, "lazily" each MiB before the first pass that reads it
                    (that pass raises CorruptError), or all "now"
        max_memory  bytes for weights and scratch; 0 = what there is
        progress    gets Progress; what it raises cancels the opening

        The file is mapped: it must not change while the model is open.
        Raises NotFoundError, FormatError, VersionError, CorruptError, DataError,
        UnsupportedError (architecture), BudgetError, DeviceError."""
        return cls._open(lib.upg_model_open, path_bytes(path), device, threads, verify, max_memory,
                         progress)

    @classmethod
    def synthetic(cls, shape: str, *, device: str | None = None, threads: int = 0,
                  max_memory: int = 0) -> Model:
        """A model with random weights in memory, to measure speed without a file; it has no
        tokenizer.

        shape  "phi4" (5.86 GB), "phi4-nano", "phi4-micro"; "phi4:4" has four layers

        Raises ArgumentError (lists the shapes), BudgetError (says what would fit), DeviceError."""
        return cls._open(lib.upg_model_open_synthetic, path_bytes(shape), device, threads, "header",
                         max_memory, None)

    @classmethod
    def _open(cls, function: Any, what: bytes, device: str | None, threads: int, verify: str,
              max_memory: int, progress: ProgressCallback | None) -> Model:
        levels = {"header": 0, "lazily": 1, "now": 2}
        if verify not in levels:
            raise errors.ArgumentError(f"verify is {verify!r}: one of {', '.join(levels)}")
        name = ffi.NULL if device is None else ffi.new("char[]", os.fsencode(device))
        options, hooks = ffi.new("upg_model_options *"), Hooks(progress)
        options.struct_size = ffi.sizeof("upg_model_options")
        options.device, options.verify = name, levels[verify]
        try:
            options.threads, options.max_memory = threads, max_memory
        except OverflowError as e:
            raise errors.ArgumentError(f"threads, max_memory: {e}") from None
        hooks.fill(options.hooks)
        out, error = ffi.new("upg_model **"), new_error()
        status = function(what, options, out, error)
        model = cls(Handle("model", out[0], lib.upg_model_close)) if out[0] else None
        hooks.check(status, error)
        assert model
        return model

    # ---- what it is -----------------------------------------------------------------------------
    @cached_property
    def info(self) -> ModelInfo:
        """What the model is and what it runs on."""
        c, error = ffi.new("upg_model_info *"), new_error()
        c.struct_size = ffi.sizeof("upg_model_info")
        with self._handle as m:
            check(lib.upg_model_describe(m, c, error), error)
            quality = string(c.quality_json)
            numbers = {name: getattr(c, name) for name in ModelInfo.__annotations__
                       if name not in ("architecture", "device", "quality")}
            return ModelInfo(architecture=string(c.architecture), device=string(c.device),
                             quality=json.loads(quality) if quality else {}, **numbers)

    def tensors(self) -> Iterator[TensorInfo]:
        """Every weight tensor: the embedding, layer by layer, the final norm, the head."""
        index = 0
        while True:
            c, error = ffi.new("upg_tensor_info *"), new_error()
            c.struct_size = ffi.sizeof("upg_tensor_info")
            with self._handle as m:
                status = lib.upg_model_tensor(m, index, c, error)
                if status == lib.UPG_E_ARG:  # past the last one
                    return
                check(status, error)
                info = TensorInfo(string(c.name), tuple(d for d in c.shape if d), c.bytes,
                                  c.bits_per_weight,
                                  None if c.relative_error < 0 else c.relative_error,
                                  c.outliers, c.outlier_columns)
            yield info
            index += 1

    @property
    def program(self) -> str:
        """The ops that run for one token, one line each."""
        with self._handle as m:
            return string(lib.upg_model_program(m))

    @cached_property
    def sampling(self) -> Sampling:
        """What the model's generation_config.json asks for; greedy without one."""
        c, error = ffi.new("upg_sampling *"), new_error()
        c.struct_size = ffi.sizeof("upg_sampling")
        with self._handle as m:
            check(lib.upg_model_sampling(m, c, error), error)
        return Sampling(c.temperature, c.top_p, c.min_p, c.repetition_penalty, c.presence_penalty,
                        c.frequency_penalty, c.top_k, c.seed)

    def is_end(self, token: int) -> bool:
        """True when `token` ends a generation."""
        with self._handle as m:
            return bool(lib.upg_model_is_end(m, as_tokens([token])[0]))

    # ---- text and tokens ------------------------------------------------------------------------
    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, good as long as the model is open. NotFoundError when the
        checkpoint has none."""
        with self._handle as m:
            pointer = lib.upg_model_tokenizer(m)
        if not pointer:
            raise errors.NotFoundError("the model has no tokenizer.json")
        return Tokenizer(Part(self._handle, pointer))

    def tokenize(self, text: str, *, special: bool = False) -> Tokens:
        """i32 [n]: see Tokenizer.tokenize."""
        return self.tokenizer.tokenize(text, special=special)

    def detokenize(self, tokens: TokensLike, *, skip_special: bool = False) -> str:
        """The text of i32 [n] tokens: see Tokenizer.detokenize."""
        return self.tokenizer.detokenize(tokens, skip_special=skip_special)

    # ---- running --------------------------------------------------------------------------------
    def session(self, *, sampling: Sampling | None = None, context_tokens: int = 0,
                kv_int8: bool = False, shift_when_full: bool = False,
                keep_logits: bool = True) -> Session:
        """A new session: see Session."""
        return Session(self, sampling=sampling, context_tokens=context_tokens, kv_int8=kv_int8,
                       shift_when_full=shift_when_full, keep_logits=keep_logits)

    def session_bytes(self, *, context_tokens: int = 0, kv_int8: bool = False) -> int:
        """Device memory of such a session with a full context; allocates nothing."""
        out, error = ffi.new("uint64_t *"), new_error()
        options = session_options(context_tokens, kv_int8, False, True)
        with self._handle as m:
            check(lib.upg_session_size(m, options, out, error), error)
        return int(out[0])

    def generate(self, prompt: str | TokensLike, *, max_tokens: int | None = 256,
                 stop: str | Sequence[str] = (), special: bool = False,
                 temperature: float | None = None, top_p: float | None = None,
                 top_k: int | None = None, min_p: float | None = None,
                 repetition_penalty: float | None = None, presence_penalty: float | None = None,
                 frequency_penalty: float | None = None, seed: int | None = None,
                 biases: Mapping[int, float] | None = None, context_tokens: int = 0,
                 kv_int8: bool = False, shift_when_full: bool = False) -> Generation:
        """Continues a prompt: an iterator of text pieces.

        prompt          text, or i32 [n] tokens
        max_tokens      at most so many; None = until the model ends or the context is full
        stop            the text ends before the first of these strings
        special         control tokens in the prompt's text count, generated ones are shown
        temperature ... biases
                        see Sampling; None = as the model's generation_config.json says
        seed            None = a new one each time: generation.sampling.seed tells it
        context_tokens, kv_int8, shift_when_full
                        see Session

        Everything is checked before this returns; computing starts with the first piece.
        Raises ArgumentError, ContextError (the prompt leaves no room; nothing is ever cut),
        DataError (an empty prompt), OutOfMemoryError."""
        tokens = (self.tokenize(prompt, special=special) if isinstance(prompt, str)
                  else as_tokens(prompt))
        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
                 "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
                 "frequency_penalty": frequency_penalty, "biases": biases,
                 "seed": secrets.randbits(63) if seed is None else seed}
        sampling = Sampling(**{**self.sampling.__dict__,
                               **{k: v for k, v in given.items() if v is not None}})
        if context_tokens < 0:
            raise errors.ArgumentError(f"context_tokens is {context_tokens}")
        context = context_tokens or self.info.context_tokens
        if len(tokens) == 0:
            raise errors.DataError("the prompt is empty")
        if len(tokens) >= context:
            raise errors.ContextError(f"the prompt has {len(tokens)} tokens, the context holds "
                                      f"{context}: no room for an answer; nothing was cut off")
        if tokens.min() < 0 or tokens.max() >= self.info.vocab_size:
            raise errors.ArgumentError(f"prompt: tokens are 0 to {self.info.vocab_size - 1}")
        if max_tokens is not None and max_tokens < 0:
            raise errors.ArgumentError(f"max_tokens is {max_tokens}")
        session = Session(self, sampling=sampling, context_tokens=context_tokens, kv_int8=kv_int8,
                          shift_when_full=shift_when_full, keep_logits=False)
        return Generation(session, self.tokenizer, tokens, sampling, max_tokens=max_tokens,
                          stop=stop, show_special=special)

    def chat(self, messages: str | Iterable[Message], *, max_tokens: int | None = None,
             special: bool = False, **options: Unpack[GenerateOptions]) -> Generation:
        """The assistant's answer to a chat: an iterator of text pieces.

        messages    each {"role": "system" | "user" | "assistant", "content": text}; a string
                    stands for one user message
        special     control tokens in the messages' text count: for trusted text only
        max_tokens and the other options as in generate(); by default until the answer ends

        Raises as generate(); UnsupportedError for a chat template that is not recognised."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        prompt = self.tokenizer.chat_tokens(messages, special=special)
        return self.generate(prompt, max_tokens=max_tokens, **options)

    def logits(self, text: str | TokensLike) -> Logits:
        """f32 [n][vocab_size]: row i predicts what follows tokens[i] of the text, or of i32 [n]
        tokens. Written by the library into the array, without a copy.

        Raises ContextError, ArgumentError; Ctrl-C ends it within one op."""
        tokens = self.tokenize(text) if isinstance(text, str) else as_tokens(text)
        with self.session(keep_logits=False) as session:
            out = session.prefill(tokens, logits=True)
        assert out is not None
        return out

    def evaluate(self, text: str | TokensLike, *, window: int = 0, windows: int = 0,
                 against: Model | None = None,
                 progress: ProgressCallback | None = None) -> Evaluation:
        """Perplexity on text or i32 [n] tokens, and the distance from another model.

        window    tokens in a window; 0 = 512. windows: at most so many; 0 = all
        against   a model with the same vocabulary, usually the checkpoint
        progress  gets Progress; what it raises cancels

        Raises ArgumentError (fewer tokens than a window, ...)."""
        tokens = self.tokenize(text) if isinstance(text, str) else as_tokens(text)
        if against is None:
            return evaluate(self._handle, tokens, window, windows, None, progress)
        with against._handle as other:
            return evaluate(self._handle, tokens, window, windows, other, progress)
