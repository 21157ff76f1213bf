"""Every error that the farm raises on purpose, as one tree.

::

    FarmError
    ├── InvalidInput             the caller's words cannot be carried out (exit code 2)
    │   ├── BadSpecification     a picture that cannot be rendered as asked
    │   ├── BadSettings          a FARM_* setting or models.toml is wrong
    │   └── NotFound             no such render, job or model
    ├── ServiceProblem           something the farm stands on is missing (exit code 3)
    │   ├── DatabaseProblem
    │   │   ├── DatabaseBusy     the transaction did nothing and may be run again
    │   │   └── SchemaMismatch   the database belongs to another version of the farm
    │   ├── BrokerProblem
    │   └── ObjectStoreProblem
    │       └── ObjectStoreRefused   the store answered and said no: waiting will not help
    ├── RenderFailed             this picture cannot be made, and why: the job fails at once
    └── ModelUnavailable         a worker cannot load the model: the job fails at once, unless memory was short there

A message is one line: what happened, to which thing, what to do next.
"""


class FarmError(Exception):
    """Raised when the farm cannot do what it was asked; every error below is one."""


class InvalidInput(FarmError):
    """Raised when what the caller gave is wrong and must be changed by the caller."""


class BadSpecification(InvalidInput):
    """Raised when a picture's specification is not valid; the message names the field."""


class BadSettings(InvalidInput):
    """Raised when a setting or the model registry is not valid."""


class NotFound(InvalidInput):
    """Raised when no render, job or model has the given name."""


class ServiceProblem(FarmError):
    """Raised when a service that the farm needs is away or refuses."""


class DatabaseProblem(ServiceProblem):
    """Raised when the database cannot be reached or used."""


class DatabaseBusy(DatabaseProblem):
    """Raised when a transaction was undone by a deadlock or a lock timeout: run it again."""


class SchemaMismatch(DatabaseProblem):
    """Raised when the database's tables are of another version than this farm's."""


class BrokerProblem(ServiceProblem):
    """Raised when Redis cannot be reached or used."""


class ObjectStoreProblem(ServiceProblem):
    """Raised when the object store did not answer; trying again later can help."""


class ObjectStoreRefused(ObjectStoreProblem):
    """Raised when the object store refuses (missing bucket, forbidden): a person must act."""


class RenderFailed(FarmError):
    """Raised when a picture cannot be made; trying the same again would not help."""


class ModelUnavailable(FarmError):
    """Raised when a worker cannot load a model."""

    def __init__(self, message: str, *, out_of_memory: bool = False) -> None:
        super().__init__(message)
        #: There was not enough memory beside what is loaded.
        self.out_of_memory = out_of_memory
