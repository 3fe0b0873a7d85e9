"""The errors of this project and their exit codes.

    AnnotateError
    ├── FindingsError            1   audit has findings
    ├── UsageError               2   invalid flags, folders or prompts
    ├── TooManyFailedError      65   the run has ended, more inputs failed than allowed
    ├── NoInputsError           65   the input has no JSON, and --fail_if_empty was given
    ├── WorkerError             70   this worker failed; another may succeed
    │   ├── DeviceError              the requested device does not respond
    │   │   ├── UnusableDeviceError      this node's driver or GPU can never run the model
    │   │   └── DeviceMemoryError        the device has too little free memory
    │   ├── SelfCheckError           this machine does not reproduce the model's reference answers
    │   ├── HungImageError           an image exceeded its timeout
    │   └── ModelError               the model failed on too many images in a row
    ├── InterruptedRunError     75   stopped with work left: rerun the same command to resume
    │   └── StorageError             the store is unreachable or full
    │       ├── CredentialsRefusedError  the store has rejected the credentials from the start
    │       ├── ReadOnlyStorageError     the file system is mounted read-only
    │       └── UnreadableObjectError    the device fails one object and serves others (EIO, ESTALE)
    ├── ConfigurationError      78   wrong for every worker
    │   ├── ArtifactError            model missing, damaged, or not the one that was pinned
    │   └── RunConflictError         options that differ from those of the run
    ├── RunOverError             0   the run has ended; other processes have completed it
    ├── InputError               -   one input cannot be used: a failed row, never the end of a run
    │   └── UnreadableInputError     a file of it exists and cannot be read (EIO, ESTALE)
    └── ObjectError              -   one object of a store; the caller decides what that means
        ├── ObjectMissingError       it does not exist
        ├── ObjectRefusedError       this user may not read it
        └── UnstorableObjectError    the store cannot hold an object with this key

The codes are those of sysexits.h where it has one. Foreign errors become these at the border of each
dependency, with `raise … from exc`; a message says what was found, what is allowed and what to do next.
"""

from __future__ import annotations

from typing import ClassVar

from job.redaction import redact


class AnnotateError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code: ClassVar[int] = 70

    def __str__(self) -> str:
        """The message without secrets: it reaches logs, journals and reports."""
        return redact(super().__str__())


class FindingsError(AnnotateError):
    """An audit has findings other than failed inputs."""

    exit_code = 1


class UsageError(AnnotateError):
    """Invalid flags, folders or prompts."""

    exit_code = 2


class TooManyFailedError(AnnotateError):
    """The run has ended and more inputs failed than `--max_failed_fraction` allows."""

    exit_code = 65


class NoInputsError(AnnotateError):
    """The input has no JSON file, and `--fail_if_empty` was given."""

    exit_code = 65


class WorkerError(AnnotateError):
    """This worker failed; the same work may succeed on another machine."""

    exit_code = 70


class DeviceError(WorkerError):
    """The requested device does not respond."""


class UnusableDeviceError(DeviceError):
    """The driver or the GPU of this node can never run the model; without an index that is a wrong configuration."""


class DeviceMemoryError(DeviceError):
    """The device has too little free memory."""


class SelfCheckError(WorkerError):
    """The session does not reproduce the reference answers that are stored with the artifact."""


class HungImageError(WorkerError):
    """An image exceeded `--image_timeout_s`."""


class ModelError(WorkerError):
    """The model failed on too many images in a row."""


class InterruptedRunError(AnnotateError):
    """Stopped with work left; rerun the same command to resume."""

    exit_code = 75


class StorageError(InterruptedRunError):
    """The store is unreachable or full."""


class CredentialsRefusedError(StorageError):
    """The store has rejected the credentials from the start; for a planner that is a wrong configuration."""


class ReadOnlyStorageError(StorageError):
    """The file system is mounted read-only; at the first write that is a wrong configuration."""


class UnreadableObjectError(StorageError):
    """The device fails to read one object and serves others; of an input it fails the input."""


class ConfigurationError(AnnotateError):
    """Wrong for every worker."""

    exit_code = 78


class ArtifactError(ConfigurationError):
    """The model artifact is missing, damaged, of an unknown format, or not the one pinned."""


class RunConflictError(ConfigurationError):
    """The options differ from those of the run, or the run has ended."""


class RunOverError(AnnotateError):
    """The run has ended; other processes have completed it."""

    exit_code = 0


class InputError(AnnotateError):
    """One input cannot be used; it becomes a failed row and the run continues."""


class UnreadableInputError(InputError):
    """A file of this input exists and cannot be read; it does not count as a refusal by the store."""


class ObjectError(AnnotateError):
    """One object of a store is not available; the caller decides what that means."""


class ObjectMissingError(ObjectError):
    """The object does not exist."""


class ObjectRefusedError(ObjectError):
    """This user may not read the object."""


class UnstorableObjectError(ObjectError):
    """The store cannot hold an object with this key: it is too long, or is the name of a folder."""
