"""Every error that the farm raises on purpose, as one tree.

::

    FarmError
    ├── InvalidInput             the request is wrong and the caller must change it (exit code 2)
    │   ├── BadSpecification     a picture that cannot be rendered as asked
    │   ├── BadSettings          a FARM_* setting or models.toml is wrong
    │   ├── WorkerNameTaken      another worker that is alive has this one's name
    │   ├── IdempotencyConflict  the idempotency key was reused with a different request
    │   ├── QuotaExceeded        the key's limits leave room for less, for now
    │   ├── NotPermitted         the key does not allow this, now or later
    │   ├── StillNeeded          what is to be deleted is still needed, as by an export
    │   └── NotFound             no such render, job or model
    ├── ServiceProblem           a service that the farm depends on is unavailable (exit code 3)
    │   ├── DatabaseProblem
    │   │   ├── DatabaseBusy     the transaction was rolled back and can be retried
    │   │   └── SchemaMismatch   the database belongs to another version of the farm
    │   ├── BrokerProblem
    │   ├── ObjectStoreProblem
    │   │   └── ObjectStoreRefused   the store refuses: waiting will not help
    │   │       └── ObjectStoreOverwrites   the store does not keep what was written first
    │   └── ExportProblem        the export's target is full or gone
    └── RenderFault              a batch failed, and why (`storage.rules.faults` decides what follows)
        ├── RenderFailed         this picture cannot be made
        ├── OutOfMemory          too many pictures at once for this device
        ├── ModelUnavailable     a worker cannot load the model
        └── DeviceBroken         the process that owns the device is unusable

A message is one line: what happened, to which thing, what to do next.
"""

from storage.rules.faults import Fault


class FarmError(Exception):
    """Raised when the farm cannot carry out a request; the base of all errors below."""


class InvalidInput(FarmError):
    """Raised when a request is wrong and the caller must change it."""


class BadSpecification(InvalidInput):
    """Raised when a picture's specification is not valid; the message names the field."""


class BadSettings(InvalidInput):
    """Raised when a setting or the model registry is not valid."""


class WorkerNameTaken(InvalidInput):
    """Raised when a worker starts under the name of another one that is alive."""


class IdempotencyConflict(InvalidInput):
    """Raised when an idempotency key is reused with a different request."""


class QuotaExceeded(InvalidInput):
    """Raised when a key's limits leave no room for a request; `retry_seconds` says when to try again."""

    def __init__(self, message: str, *, retry_seconds: int) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class NotPermitted(InvalidInput):
    """Raised when a key does not permit a request, now or later."""


class StillNeeded(InvalidInput):
    """Raised when something still needs what is to be deleted; the message says what, and how to end that."""


class NotFound(InvalidInput):
    """Raised when no render, job or model has the given name."""


class ServiceProblem(FarmError):
    """Raised when a service that the farm needs is unavailable or refuses; `fault`: its class, if jobs wait for it."""

    fault: Fault | None = None


class DatabaseProblem(ServiceProblem):
    """Raised when the database cannot be reached or used."""

    fault = Fault.DATABASE_AWAY


class DatabaseBusy(DatabaseProblem):
    """Raised when a transaction was rolled back by a deadlock or a lock timeout: retry it."""


class SchemaMismatch(DatabaseProblem):
    """Raised when the database has another schema version than this farm."""


class BrokerProblem(ServiceProblem):
    """Raised when Redis cannot be reached or used."""

    fault = Fault.BROKER_AWAY


class ObjectStoreProblem(ServiceProblem):
    """Raised when the object store did not answer; trying again later can help."""

    fault = Fault.STORE_AWAY


class ObjectStoreRefused(ObjectStoreProblem):
    """Raised when the object store refuses (missing bucket, forbidden): a person must act."""


class ObjectStoreOverwrites(ObjectStoreRefused):
    """Raised when the object store does not keep what was written first, or at all: it cannot serve a farm."""


class ExportProblem(ServiceProblem):
    """Raised when an export cannot be written; running it again resumes it."""


class RenderFault(FarmError):
    """Raised when a batch failed; `fault` is its class."""

    fault = Fault.PIPELINE_ERROR


class RenderFailed(RenderFault):
    """Raised when a picture cannot be made; an error of the pipeline itself may not recur on another worker."""

    def __init__(self, message: str, fault: Fault = Fault.BAD_SPECIFICATION) -> None:
        super().__init__(message)
        self.fault = fault


class OutOfMemory(RenderFault):
    """Raised when the device has too little memory for a batch."""

    fault = Fault.OUT_OF_MEMORY


class ModelUnavailable(RenderFault):
    """Raised when a worker cannot load a model; with `out_of_memory`, next to those it has loaded."""

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.fault = Fault.OUT_OF_MEMORY if out_of_memory else Fault.BAD_WEIGHTS


class DeviceBroken(RenderFault):
    """Raised when all later calls would fail too (a CUDA assert, a lost device): only a new process helps."""

    fault = Fault.BROKEN_DEVICE
