"""Checkpoint folders: making one with random weights, exporting a file to one, comparing with one."""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import errors
from ._hooks import Hooks, ProgressCallback
from ._library import ffi, lib, new_error, path_bytes, string


def _options(name: str, **values: int) -> Any:
    """A zeroed options struct with integers that fit."""
    options = ffi.new(f"{name} *")
    options.struct_size = ffi.sizeof(name)
    for key, value in values.items():
        try:
            setattr(options, key, value)
        except (OverflowError, TypeError) as e:
            raise errors.ArgumentError(f"{key}: {e}") from None
    return options


def synthesize(folder: str | os.PathLike[str], architecture: str | None = None, *,
               config: str | os.PathLike[str] | None = None,
               tokenizer: str | os.PathLike[str] | None = None, layers: int = 0,
               heavy_tailed: bool = False, seed: int = 0, shard_bytes: int = 0, threads: int = 0,
               coded: bool = False,
               progress: ProgressCallback | None = None) -> None:
    """Writes a checkpoint folder of a model's exact shape with random bf16 weights, to try what
    such a model takes. The folder appears only when it is complete.

    architecture  "phi4", "phi4-nano" or "phi4-micro"; or `config`, any supported config.json
    tokenizer     a folder whose tokenizer files are copied
    layers        0 = the model's
    heavy_tailed  Student's t with 4 degrees of freedom, one input column in 256 eight times as
                  large; else Gaussian
    seed          same arguments, same bytes
    shard_bytes   most bytes of tensors in a file; 0 = 5e9, as transformers
    coded         not a folder, but a .upg file with random codes in the benchmark's rates; with
                  architecture, layers and tokenizer alone

    Raises ArgumentError (lists the architectures), ExistsError unless it is an empty folder,
    NoSpaceError, DataError (a tokenizer of another model), FormatError, UnsupportedError,
    NotFoundError, IoError."""
    hooks, error = Hooks(progress), new_error()
    options = _options("upg_synth_options", layers=layers, seed=seed, shard_bytes=shard_bytes,
                       threads=threads)
    texts = [ffi.NULL if text is None else ffi.new("char[]", path_bytes(text))
             for text in (architecture, config, tokenizer)]
    options.architecture, options.config, options.tokenizer = texts
    options.heavy_tailed, options.coded = heavy_tailed, coded
    hooks.fill(options.hooks)
    hooks.check(lib.upg_synthesize(path_bytes(folder), options, error), error)


def export(path: str | os.PathLike[str], folder: str | os.PathLike[str], *, shard_bytes: int = 0,
           threads: int = 0, progress: ProgressCallback | None = None) -> None:
    """Writes the weights of a .upg file as a folder of bf16 safetensors that transformers reads:
    decoded, rotated back, rounded to bf16, with config.json and the tokenizer's files. The folder
    appears only when it is complete.

    shard_bytes  most bytes of tensors in a file; 0 = 5e9, as transformers

    Raises NotFoundError, FormatError, CorruptError, ExistsError unless it is an empty folder,
    NoSpaceError, IoError."""
    hooks, error = Hooks(progress), new_error()
    options = _options("upg_export_options", shard_bytes=shard_bytes, threads=threads)
    hooks.fill(options.hooks)
    hooks.check(lib.upg_export(path_bytes(path), path_bytes(folder), options, error), error)


@dataclass(frozen=True)
class MatrixCheck:
    """One tensor of a file against the checkpoint.

    stored    |W - W'|^2 / |W|^2 as the file says; None = it does not
    measured  the same, now
    agrees    to one part in a thousand; norms: equal"""

    name: str
    stored: float | None
    measured: float
    agrees: bool


def verify_against(path: str | os.PathLike[str], checkpoint: str | os.PathLike[str], *,
                   threads: int = 0,
                   progress: ProgressCallback | None = None) -> list[MatrixCheck]:
    """Measures the error of every tensor of a .upg file against the checkpoint it was made of.

    Whether all agree with what the file says: `all(c.agrees for c in ...)`.

    Raises DataError for a checkpoint of another shape, NotFoundError, FormatError."""
    hooks, error = Hooks(progress), new_error()
    options = _options("upg_against_options", threads=threads)
    checks: list[MatrixCheck] = []

    def receive(_user: Any, c: Any) -> None:
        checks.append(MatrixCheck(string(c.name), c.stored if c.stored >= 0 else None, c.measured,
                                  bool(c.agrees)))

    callback = ffi.callback("void(void *, const upg_matrix_check *)", receive)
    options.matrix = callback
    hooks.fill(options.hooks)
    status = lib.upg_verify_against(path_bytes(path), path_bytes(checkpoint), options, error)
    try:
        hooks.check(status, error)
    except errors.CorruptError:
        if all(c.agrees for c in checks):  # the file itself
            raise
    return checks
