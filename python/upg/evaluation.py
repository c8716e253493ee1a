"""Perplexity and the distance between models."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import errors
from ._hooks import Hooks, ProgressCallback
from ._library import Handle, ffi, lib, new_error
from .tokenizer import Tokens, token_pointer


@dataclass(frozen=True)
class Evaluation:
    """What Model.evaluate measured.

    nll         mean negative log-likelihood of a token in nats; perplexity = exp(nll)
    top1        share of tokens that are the model's first choice
    window_nll  f64 [windows]: sums of NLL
    kl_mean, kl_p99, top1_agreement, ppl_ratio, against_nll, against_perplexity
                KL(against || model) in nats and the like; None without `against`"""

    tokens: int
    windows: int
    nll: float
    perplexity: float
    top1: float
    seconds: float
    window_nll: npt.NDArray[np.float64]
    against_nll: float | None = None
    against_perplexity: float | None = None
    ppl_ratio: float | None = None
    kl_mean: float | None = None
    kl_p99: float | None = None
    top1_agreement: float | None = None


ALONE = ("tokens", "windows", "nll", "perplexity", "top1", "seconds")
COMPARED = ("against_nll", "against_perplexity", "ppl_ratio", "kl_mean", "kl_p99", "top1_agreement")


def evaluate(model: Handle, tokens: Tokens, window: int, windows: int, against: Any,
             progress: ProgressCallback | None) -> Evaluation:
    """Model.evaluate; `against` is a pointer or None."""
    options, result = ffi.new("upg_eval_options *"), ffi.new("upg_eval_result *")
    options.struct_size = ffi.sizeof("upg_eval_options")
    result.struct_size = ffi.sizeof("upg_eval_result")
    try:
        options.window, options.windows = window, windows
    except OverflowError as e:
        raise errors.ArgumentError(f"window, windows: {e}") from None
    options.against = ffi.NULL if against is None else against
    sums = np.zeros(len(tokens) // (window or 512) + 1, np.float64)
    options.window_nll = ffi.cast("double *", ffi.from_buffer(sums))
    hooks, error = Hooks(progress), new_error()
    hooks.fill(options.hooks)
    with model as m:
        hooks.check(lib.upg_evaluate(m, token_pointer(tokens), len(tokens), options, result, error),
                    error)
    fields = ALONE if against is None else ALONE + COMPARED
    return Evaluation(window_nll=sums[:result.windows], **{f: getattr(result, f) for f in fields})
