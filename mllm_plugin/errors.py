"""Every error the package raises on purpose.

    MLLMError
    ├── InvalidInputError (ValueError)      bad argument, document, vector or filter
    │   ├── InvalidDocumentError            empty text, duplicate id, lone surrogate, bad metadata
    │   ├── DimensionMismatchError          a vector of another width than the memory's
    │   └── FilterError                     unknown operator or malformed filter
    ├── InvalidTypeError (TypeError)        an argument of the wrong type
    ├── NotFoundError (LookupError)         an id, label or file that is not there
    ├── ModelNotFoundError (OSError)        a model that no local place nor the hub has
    ├── MissingDependencyError (ImportError) an optional package that is not installed
    ├── EncoderMismatchError (ValueError)   another encoder than the one the memory was written with
    ├── VersionConflictError (RuntimeError) somebody else changed a document first
    ├── AccessError (PermissionError)       what a server's caller may not do
    ├── AdapterMismatchError (ValueError)   a reader for another language model
    └── StoreError (OSError)                the file, the disk or the lock
        ├── DamagedStoreError               a page or an invariant does not check out
        ├── FormatVersionError              written by a newer release
        ├── ReadOnlyStoreError              the folder or file cannot be written
        ├── DiskFullError                   no space left; the write was rolled back
        ├── StoreBusyError (TimeoutError)   another writer held the lock for too long
        ├── UnsupportedFilesystemError      a network file system
        └── ClosedError                     the memory was closed

Each one also inherits the builtin that a caller would catch, given in brackets.
"""

from __future__ import annotations


class MLLMError(Exception):
    """Root of every error raised on purpose by this package."""


class InvalidInputError(MLLMError, ValueError):
    """An argument has the right type but not an acceptable value."""


class InvalidDocumentError(InvalidInputError):
    """A document cannot be stored as it is."""


class DimensionMismatchError(InvalidInputError):
    """A vector has another width than the memory's embeddings."""


class FilterError(InvalidInputError):
    """A metadata filter is malformed or uses an unknown operator."""


class InvalidTypeError(MLLMError, TypeError):
    """An argument has the wrong type."""


class NotFoundError(MLLMError, LookupError):
    """Something that was named does not exist."""


class ModelNotFoundError(MLLMError, OSError):
    """A model was found in none of the places that were looked at."""


class MissingDependencyError(MLLMError, ImportError):
    """An optional package is needed and not installed."""


class EncoderMismatchError(MLLMError, ValueError):
    """The memory was written with another encoder."""


class VersionConflictError(MLLMError, RuntimeError):
    """A document has another version than the caller has seen; nothing was written."""


class AccessError(MLLMError, PermissionError):
    """A server's caller may not do this: another scope than its own, or a write where it only reads."""


class AdapterMismatchError(MLLMError, ValueError):
    """The reader was trained for another language model."""


class StoreError(MLLMError, OSError):
    """The memory's files cannot be used as asked."""


class DamagedStoreError(StoreError):
    """A page checksum or an invariant does not hold."""


class FormatVersionError(StoreError):
    """The memory was written by a newer release."""


class ReadOnlyStoreError(StoreError):
    """The memory cannot be written."""


class DiskFullError(StoreError):
    """No space is left on the disk; nothing of the write was kept."""


class StoreBusyError(StoreError, TimeoutError):
    """Another writer held the lock for longer than the time-out."""


class UnsupportedFilesystemError(StoreError):
    """The folder lies on a file system that cannot lock safely."""


class ClosedError(StoreError):
    """The memory has been closed."""
