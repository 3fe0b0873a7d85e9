"""What can go wrong, and with which exit code.

    AnnotateError
    ├── FindingsError            1   audit has found something
    ├── UsageError               2   flags, folders or prompts that cannot be meant
    ├── TooManyFailedError      65   the run has ended, more inputs failed than allowed
    ├── WorkerError             70   this worker cannot do it; another may
    │   ├── DeviceError              the device asked for does not answer
    │   ├── SelfCheckError           this machine does not reproduce the model's reference answers
    │   ├── HungImageError           an image took longer than allowed
    │   └── ModelError               the model failed on too many images in a row
    ├── InterruptedRunError     75   stopped with work left: rerun the same command to resume
    │   └── StorageError             storage out of reach, or no space left on it
    │       └── CredentialsRefusedError  it has refused this user since the start
    ├── ConfigurationError      78   wrong in a way that every worker would see
    │   ├── ArtifactError            model missing, damaged, or not the one that was pinned
    │   └── RunConflictError         options that do not fit the run
    ├── RunOverError             0   the run ended while this worker was at it: others have done what was left
    ├── InputError               -   one input cannot be used: a failed row, never the end of a run
    │   └── UnreadableInputError     a file of it exists and cannot be read (EIO, ESTALE)
    └── ObjectError              -   one object of a store; the caller decides what that means
        ├── ObjectMissingError       it does not exist
        ├── ObjectRefusedError       this user may not read it
        ├── ObjectUnreadableError    it exists, and reading it fails (EIO, ESTALE)
        └── UnstorableObjectError    the store cannot hold a key like this

The codes are those of sysexits.h where it has one. Foreign errors become these at the border of each
dependency, with `raise … from exc`; a message says what was got, what is allowed, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class AnnotateError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code: ClassVar[int] = 70


class FindingsError(AnnotateError):
    """An audit has found something else than failed inputs."""

    exit_code = 1


class UsageError(AnnotateError):
    """Flags, folders or prompts that cannot be meant."""

    exit_code = 2


class TooManyFailedError(AnnotateError):
    """The run has ended and more inputs failed than `--max_failed_fraction` allows."""

    exit_code = 65


class WorkerError(AnnotateError):
    """This worker cannot do it; the same work may succeed elsewhere."""

    exit_code = 70


class DeviceError(WorkerError):
    """The device asked for does not answer."""


class SelfCheckError(WorkerError):
    """The session does not reproduce the reference answers that are stored with the artifact."""


class HungImageError(WorkerError):
    """An image took longer than `--image_timeout_s`."""


class ModelError(WorkerError):
    """The model failed on too many images in a row to blame the images."""


class InterruptedRunError(AnnotateError):
    """Stopped with work left: rerun the same command to resume."""

    exit_code = 75


class StorageError(InterruptedRunError):
    """Storage is out of reach or full."""


class CredentialsRefusedError(StorageError):
    """Storage has refused this user from the start; for a planner that is a wrong configuration."""


class ConfigurationError(AnnotateError):
    """Wrong in a way that every worker would see."""

    exit_code = 78


class ArtifactError(ConfigurationError):
    """The model artifact is missing, damaged, of an unknown format, or not the one pinned."""


class RunConflictError(ConfigurationError):
    """The options do not fit the run of that name, or the run is over."""


class RunOverError(AnnotateError):
    """The run has ended while this worker was at it: others have done what was left."""

    exit_code = 0


class InputError(AnnotateError):
    """One input cannot be used; it becomes a failed row and the run goes on."""


class UnreadableInputError(InputError):
    """A file of this input exists and cannot be read; it does not count as a refusal by the store."""


class ObjectError(AnnotateError):
    """One object of a store is not available; the caller decides what that means."""


class ObjectMissingError(ObjectError):
    """There is no such object."""


class ObjectRefusedError(ObjectError):
    """The store refuses the object to this user."""


class ObjectUnreadableError(ObjectError):
    """The object exists, and reading it still fails after retries (EIO, ESTALE), while others are served."""


class UnstorableObjectError(ObjectError):
    """The store cannot hold an object of this key: too long, or a folder is in its place."""
