"""Every error that polyrank raises, in one tree.

PolyrankError
├── ConfigError            (ValueError)   a setting is out of range or contradicts another
├── CheckpointError                       a model folder cannot be used
│   ├── CheckpointNotFoundError           no such folder, Hub id or file
│   ├── UnsupportedArchitectureError      a body that polyrank does not run
│   ├── UnsafeWeightsError                weights exist only as a pickle
│   ├── MissingWeightError                a tensor is not in the files
│   └── CorruptWeightsError               a file or a tensor contradicts its header
├── CheckpointWarning      (UserWarning)  a folder left something open; warned of, not raised
├── InputError             (ValueError)   a query, document or text cannot be read
├── DataError              (ValueError)   a file of documents or an evaluation set cannot be read
├── CapabilityError                       this checkpoint or encoder cannot do what was asked
├── EncoderError                          the encoder failed while running
├── TrainingError                         a training run cannot go on
├── StoreError                            a store of vectors cannot do what was asked
│   ├── StoreMismatchError                it holds vectors of another size or type
│   ├── StoreUnavailableError             its server is missing, or another process holds it
│   └── StoreFullError                    its disk is full
├── ClusterError                          a Ray cluster cannot be reached or used
├── JobError                              a bulk job cannot go on
│   ├── JobMismatchError                  the output folder holds another job
│   └── StorageError                      a job's file system cannot be read or written
├── RequestError           (ValueError)   a request to the server cannot be read
│   ├── EmptyRequestError                 it holds no text
│   ├── PayloadTooLargeError              it holds more than the server takes
│   ├── UnauthorizedError                 its key is missing or wrong
│   └── UnknownModelError                 it names a model that is not served
├── ServingError                          the server cannot answer now
│   ├── OverloadedError                   too much waits already
│   ├── DeadlineExceededError             the request's time ran out
│   └── UnavailableError                  starting, stopping, or a model is being loaded
└── MissingExtraError      (ImportError)  an optional library is not installed

A message says what was wrong, the value seen, the limit and the next step. Errors of other
libraries are translated where polyrank calls them, and chained.
"""


class PolyrankError(Exception):
    """Base of all errors that polyrank raises on purpose."""


class ConfigError(PolyrankError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""


class CheckpointError(PolyrankError):
    """A model folder cannot be used."""


class CheckpointNotFoundError(CheckpointError):
    """No such folder, Hub id or file."""


class UnsupportedArchitectureError(CheckpointError):
    """The checkpoint's body is not one that polyrank runs."""


class UnsafeWeightsError(CheckpointError):
    """The weights exist only as a pickle, which can run foreign code when opened."""


class MissingWeightError(CheckpointError):
    """A tensor that the architecture needs is not in the weight files."""


class CorruptWeightsError(CheckpointError):
    """A weight file is cut short, lies about its sizes, or holds impossible values."""


class CheckpointWarning(PolyrankError, UserWarning):
    """A model folder left something open, such as its pooling, and polyrank assumed it."""


class InputError(PolyrankError, ValueError):
    """A query, a document or a text cannot be read."""


class DataError(PolyrankError, ValueError):
    """A file of documents or an evaluation set cannot be read."""


class CapabilityError(PolyrankError):
    """The checkpoint or the encoder cannot do what was asked."""


class EncoderError(PolyrankError):
    """The encoder failed while running."""


class TrainingError(PolyrankError):
    """A training run cannot go on."""


class StoreError(PolyrankError):
    """A store of vectors cannot do what was asked."""


class StoreMismatchError(StoreError):
    """A store holds vectors of another size or type than was asked for."""


class StoreUnavailableError(StoreError):
    """A store's server does not answer, or another process holds the store."""


class StoreFullError(StoreError):
    """The disk of a store is full."""


class ClusterError(PolyrankError):
    """A Ray cluster cannot be reached, or cannot do what was asked."""


class JobError(PolyrankError):
    """A bulk job cannot go on."""


class JobMismatchError(JobError):
    """The output folder holds a job of another input, model or settings."""


class StorageError(JobError):
    """A file system that a job reads or writes fails, is full, or does not answer."""


class RequestError(PolyrankError, ValueError):
    """A request to the server cannot be read."""


class EmptyRequestError(RequestError):
    """A request holds no text to work on."""


class PayloadTooLargeError(RequestError):
    """A request holds more than the server takes."""


class UnauthorizedError(RequestError):
    """A request's key is missing or wrong."""


class UnknownModelError(RequestError):
    """A request names a model that is not served."""


class ServingError(PolyrankError):
    """The server cannot answer now."""


class OverloadedError(ServingError):
    """Too much waits already; `retry_after_s` tells when to try again."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(ServingError):
    """The request's time ran out before its result was there."""


class UnavailableError(ServingError):
    """The server is starting or stopping, or a model is being loaded."""


class MissingExtraError(PolyrankError, ImportError):
    """An optional library is not installed."""
