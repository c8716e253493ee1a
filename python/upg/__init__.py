"""upg: compresses Phi-4-class language models to 3.2 bits per weight, and runs them.

    import upg

    upg.compress("checkpoint-folder", "model.upg")
    with upg.Model.open("model.upg") as model:
        print("".join(model.chat("Who are you?")))

upg.reference decodes the file format in NumPy, upg.baseline runs a layer as plain NumPy would."""
from ._hooks import Progress
from ._library import lib as _lib
from ._library import string as _string
from .checkpoints import MatrixCheck, export, synthesize, verify_against
from .compression import (Compressed, Compression, Estimate, Machine, compress, estimate, machine,
                          verify)
from .errors import (ArgumentError, BudgetError, BufferTooSmallError, BusyError, CancelledError,
                     ContextError, CorruptError, DataError, DeviceError, DeviceLostError,
                     ExistsError, FormatError, InternalError, IoError, NoSpaceError, NotFoundError,
                     OutOfMemoryError, StateError, Status, UnsupportedError, UpgError,
                     VersionError)
from .evaluation import Evaluation
from .generation import Generation
from .model import Model, ModelInfo, TensorInfo
from .session import Sampling, Session, Step, decode
from .tokenizer import TextStream, Tokenizer

__version__ = _string(_lib.upg_version())

__all__ = [
    "ArgumentError", "BudgetError", "BufferTooSmallError", "BusyError", "CancelledError",
    "Compressed", "Compression", "ContextError", "CorruptError", "DataError", "DeviceError",
    "DeviceLostError", "Estimate", "Evaluation", "ExistsError", "FormatError", "Generation", "InternalError",
    "IoError", "Machine", "MatrixCheck", "Model", "ModelInfo", "NoSpaceError", "NotFoundError",
    "OutOfMemoryError", "Progress", "Sampling", "Session", "StateError", "Status", "Step",
    "TensorInfo", "TextStream", "Tokenizer", "UnsupportedError", "UpgError", "VersionError",
    "__version__", "compress", "decode", "estimate", "export", "machine", "synthesize", "verify",
    "verify_against",
]
