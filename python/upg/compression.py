"""From a checkpoint to a .upg file, and checking one."""
from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from . import errors
from ._hooks import Hooks, ProgressCallback
from ._library import Closable, Handle, check, ffi, lib, new_error, path_bytes, string


@dataclass(frozen=True)
class Compressed:
    """What compress() made.

    weight_bytes        every weight tensor with its scales and padding; file_bytes: everything
    bits_per_parameter  8 * file_bytes / parameters
    ratio_fp32, ratio_source
                        how many times smaller than the parameters in fp32, than the checkpoint"""

    file_bytes: int
    weight_bytes: int
    parameters: int
    bits_per_parameter: float
    ratio_fp32: float
    ratio_source: float
    seconds: float


EFFORTS = ("default", "fast", "high", "max")  # in the order of upg_effort


def _options(hooks: Hooks, bits_per_parameter: float, max_file_bytes: int,
             calibration: str | os.PathLike[str] | None, threads: int, max_memory: int, seed: int,
             overwrite: bool, independent: bool, evaluation: str | os.PathLike[str] | None,
             evaluation_windows: int, outliers: bool, effort: str, journal: bool, resume: bool,
             join: str | os.PathLike[str] | None, tuning: bool,
             device: str | None) -> tuple[Any, list[Any]]:
    """A upg_compress_options, and the texts that it points to."""
    texts = [ffi.NULL if text is None else ffi.new("char[]", path_bytes(text))
             for text in (calibration, evaluation, join, device)]
    options = ffi.new("upg_compress_options *")
    options.struct_size = ffi.sizeof("upg_compress_options")
    try:
        options.bits_per_parameter, options.threads = bits_per_parameter, threads
        options.max_memory, options.seed = max_memory, seed
        options.evaluation_windows, options.max_file_bytes = evaluation_windows, max_file_bytes
    except (OverflowError, TypeError) as e:
        raise errors.ArgumentError("bits_per_parameter, max_file_bytes, threads, max_memory, "
                                   f"seed, evaluation_windows: {e}") from None
    options.calibration, options.evaluation, options.join, options.device = texts
    options.journal, options.resume = journal or resume, resume
    options.overwrite, options.independent = overwrite, independent
    options.without_outliers, options.without_tuning = not outliers, not tuning
    if effort not in EFFORTS:
        raise errors.ArgumentError(f"effort: {effort!r} is none of {', '.join(EFFORTS)}")
    options.effort = EFFORTS.index(effort)
    hooks.fill(options.hooks)
    return options, texts


class Compression(Closable):
    """A planned compression: `plan` tells what will come, run() does it. compress() is both."""

    def __init__(self, checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *,
                 bits_per_parameter: float = 0.0, max_file_bytes: int = 0,
                 calibration: str | os.PathLike[str] | None = None,
                 threads: int = 0, max_memory: int = 0, seed: int = 0, overwrite: bool = False,
                 independent: bool = False, evaluation: str | os.PathLike[str] | None = None,
                 evaluation_windows: int = 0, outliers: bool = True, effort: str = "default",
                 journal: bool = False, resume: bool = False,
                 join: str | os.PathLike[str] | None = None, tuning: bool = True,
                 device: str | None = None,
                 progress: ProgressCallback | None = None) -> None:
        """Reads the headers and plans the rates; encodes nothing. Arguments: see compress()."""
        self._hooks = Hooks(progress)
        options, _texts = _options(self._hooks, bits_per_parameter, max_file_bytes, calibration,
                                   threads, max_memory, seed, overwrite, independent, evaluation,
                                   evaluation_windows, outliers, effort, journal, resume, join,
                                   tuning, device)
        out, error = ffi.new("upg_compress **"), new_error()
        status = lib.upg_compress_open(path_bytes(checkpoint), path_bytes(output), options, out,
                                       error)
        self._handle = Handle("compression", out[0] or None, lib.upg_compress_close)
        self._hooks.check(status, error)

    def __enter__(self) -> Compression:
        return self

    @property
    def plan(self) -> dict[str, Any]:
        """Size, ratios, memory, disk, rate of each matrix; predictions are marked as such."""
        with self._handle as job:
            return dict(json.loads(string(lib.upg_compress_plan(job))))

    def run(self) -> Compressed:
        """Does the work. The output appears only when it is complete and verified; after a
        failure, an exception of `progress` or Ctrl-C nothing of it remains but the journal, where
        one was asked for.

        Raises CancelledError, NoSpaceError, IoError, DataError, OutOfMemoryError, BusyError."""
        error = new_error()
        with self._handle as job:
            self._hooks.check(lib.upg_compress_run(job, error), error)
            result = json.loads(string(lib.upg_compress_result(job)))
        return Compressed(**{name: result[name] for name in Compressed.__annotations__})

    def cancel(self) -> None:
        """run() raises CancelledError soon. Any thread may call it."""
        with self._handle as job:
            lib.upg_compress_cancel(job)


def compress(checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *,
             bits_per_parameter: float = 0.0, max_file_bytes: int = 0,
             calibration: str | os.PathLike[str] | None = None,
             threads: int = 0, max_memory: int = 0, seed: int = 0, overwrite: bool = False,
             independent: bool = False, evaluation: str | os.PathLike[str] | None = None,
             evaluation_windows: int = 0, outliers: bool = True, effort: str = "default",
             journal: bool = False, resume: bool = False,
             join: str | os.PathLike[str] | None = None, tuning: bool = True,
             device: str | None = None,
             progress: ProgressCallback | None = None) -> Compressed:
    """Compresses a Hugging Face checkpoint (safetensors folder) into one .upg file.

    bits_per_parameter  of all weight tensors with scales and padding; 0 = 3.2, and for models over
                        1e9 parameters the file <= fp32 / 10 too
    max_file_bytes      of the whole file; 0 = no bound. Alone it replaces that default
    calibration         a text file; None = the text that ships with upg; "" = none: round to
                        nearest, faster and worse
    threads             0 = one per physical core
    max_memory          resident bytes; 0 = 8 GiB
    seed                same input, options and seed: same bytes
    overwrite           replace an existing output
    independent         calibrate every layer on the unquantised model alone
    evaluation          a text file: afterwards the file is compared with the checkpoint on it, and
                        what comes out stands in ModelInfo.quality; None = no evaluation
    evaluation_windows  of 512 tokens, evenly spread over that text; 0 = 64
    outliers            may keep single weights and columns beside the code, where it pays
    effort              "fast", "default", "high" or "max": time for quality at equal size
    journal             keep what is done in OUTPUT.journal until the output has its name, so that
                        after any end of the process resume=True goes on; one that is there is
                        refused. False keeps nothing
    resume              go on with that journal, to the bytes of an undisturbed run; begins with one
                        where there is none. Its input, options, machine and version must be these
    join                a folder that all workers of this job see: it is the journal, and each codes
                        what no other one does; with independent=True or calibration="". Every
                        worker returns when the file is there, whoever wrote it
    tuning              tune row scales and norms end to end on the calibration text, where effort
                        is not "fast", no device is named and max_memory suffices
    device              what encodes and calibrates: None or "cpu", "cuda", "cuda:N", or "auto"
    progress            gets Progress at most ten times a second; what it raises cancels, and so
                        does Ctrl-C: nothing of the output remains then but the journal, if any

    Raises NotFoundError, FormatError, UnsupportedError, DataError, ExistsError, NoSpaceError,
    BudgetError (says the least possible), ArgumentError, OutOfMemoryError; of a journal also
    ExistsError (resume it, or remove it), DataError (the input has changed), UnsupportedError (it
    is of other options or another machine), VersionError, CorruptError (says how to start again),
    BusyError (another process works on it)."""
    with Compression(checkpoint, output, bits_per_parameter=bits_per_parameter,
                     max_file_bytes=max_file_bytes, calibration=calibration, threads=threads,
                     max_memory=max_memory, seed=seed, overwrite=overwrite,
                     independent=independent, evaluation=evaluation,
                     evaluation_windows=evaluation_windows, outliers=outliers,
                     effort=effort, journal=journal, resume=resume, join=join,
                     tuning=tuning, device=device, progress=progress) as job:
        return job.run()


@dataclass(frozen=True)
class Estimate:
    """What a compression would take, told before it begins.

    Computed from its plan; file_bytes is an upper bound, memory_bytes and disk_bytes are what it
    takes at most: parameters, source_bytes, weight_bytes, file_bytes, ratio_fp32, ratio_source.

    memory_available, disk_available
                   now; 0 = not known
    fits_memory, fits_disk
                   whether there is room
    journal_bytes  of disk_bytes: what the journal takes, where one was asked for
    seconds        estimated: the sum of plan_seconds (sensitivities, outliers), text_seconds (the
                   text through the model, its moments) and code_seconds
    code_rate      measured: weights coded to nearest a second, by all threads
    product_rate   measured: floating-point operations a second; 0 without calibration
    measured_seconds
                   how long that took"""

    parameters: int
    source_bytes: int
    weight_bytes: int
    file_bytes: int
    ratio_fp32: float
    ratio_source: float
    memory_bytes: int
    disk_bytes: int
    memory_available: int
    disk_available: int
    fits_memory: bool
    fits_disk: bool
    seconds: float
    plan_seconds: float
    text_seconds: float
    code_seconds: float
    code_rate: float
    product_rate: float
    measured_seconds: float
    journal_bytes: int


def estimate(checkpoint: str | os.PathLike[str], output: str | os.PathLike[str], *,
             bits_per_parameter: float = 0.0, max_file_bytes: int = 0,
             calibration: str | os.PathLike[str] | None = None, threads: int = 0,
             max_memory: int = 0, overwrite: bool = False, independent: bool = False,
             outliers: bool = True, journal: bool = False, tuning: bool = True,
             progress: ProgressCallback | None = None) -> Estimate:
    """Says in seconds what compress() with the same arguments would make and take. Writes nothing.
    journal: counts the disk that a journal takes.

    Raises what compress() raises before its work; that something does not fit is no error."""
    hooks, error = Hooks(progress), new_error()
    options, _texts = _options(hooks, bits_per_parameter, max_file_bytes, calibration, threads,
                               max_memory, 0, overwrite, independent, None, 0, outliers, "default",
                               journal, False, None, tuning, None)
    e = ffi.new("upg_estimate *")
    e.struct_size = ffi.sizeof("upg_estimate")
    status = lib.upg_compress_estimate(path_bytes(checkpoint), path_bytes(output), options, e,
                                       error)
    hooks.check(status, error)
    return Estimate(**{name: getattr(e, name) for name in Estimate.__annotations__})


def verify(path: str | os.PathLike[str], *, threads: int = 0,
           progress: ProgressCallback | None = None) -> None:
    """Reads the whole file against its checksums.

    Raises CorruptError, whose `offset` is that of the first bad chunk and whose message names the
    tensor; NotFoundError, FormatError, VersionError."""
    hooks, error = Hooks(progress), new_error()
    c_hooks, offset = ffi.new("upg_hooks *"), ffi.new("uint64_t *")
    hooks.fill(c_hooks)
    if not 0 <= threads < 1 << 32:
        raise errors.ArgumentError(f"threads is {threads}")
    status = lib.upg_verify(path_bytes(path), threads, c_hooks, offset, error)
    try:
        hooks.check(status, error)
    except errors.CorruptError as e:
        e.offset = int(offset[0])
        raise


@dataclass(frozen=True)
class Machine:
    """This machine.

    cpu, isa       the processor's name; the instruction sets in use
    cores          physical cores that this process may use
    memory_total, memory_available
                   bytes; 0 = not known
    read_gb_s_1, read_gb_s_all
                   measured now: plain reads by one thread and by all, GB/s
    gpu            the first GPU that the driver shows, "" without one"""

    cpu: str
    isa: str
    cores: int
    memory_total: int
    memory_available: int
    read_gb_s_1: float
    read_gb_s_all: float
    gpu: str


def machine() -> Machine:
    """Measures this machine for about a second."""
    c, error = ffi.new("upg_machine_info *"), new_error()
    c.struct_size = ffi.sizeof("upg_machine_info")
    check(lib.upg_machine_describe(c, error), error)
    return Machine(string(c.cpu), string(c.isa), c.cores, c.memory_total, c.memory_available,
                   c.read_gb_s_1, c.read_gb_s_all, string(c.gpu))


