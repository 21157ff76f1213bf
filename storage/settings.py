"""Every setting of the farm, read once at a process's start from `FARM_*` and handed down as a value.

With no address set (`FARM_DATABASE_URL`, `FARM_BROKER_URL`, `FARM_OBJECTS_URL`) the farm is *embedded*: everything
lives below `FARM_HOME`, and `farm render` starts what it needs.
"""

import difflib
import getpass
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from storage.errors import BadSettings
from storage.rules.faults import RetryPolicy

#: One device as settings name it: kind and, where there are several, number.
DEVICE = re.compile(r"(cuda|mps|cpu|simulated)(?::(\d{1,3}))?")
#: The origin of a web page, as browsers write it: lower case, no path, no default port.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::\d{1,5})?")

#: Thirty years at most: with infinity nothing would ever be looked at again, and no thread can wait so long.
Seconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


def _user_name() -> str:
    try:
        return re.sub(r"[^\w.@-]", "-", getpass.getuser())
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"uid-{os.getuid()}"


class Settings(BaseModel):
    """Frozen; what is not given comes from the environment.

    The docstring under each field is the text of `deploy/env.example`; a test compares them. Pydantic does not read
    them: it would parse this file at the start of every command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Path(".farm")
    """Folder for all local data: embedded database and objects, logs, built models."""

    database_url: str | None = None
    """SQLAlchemy URL, e.g. postgresql+psycopg://farm:secret@db/farm (default: SQLite below FARM_HOME)."""

    broker_url: str | None = None
    """Redis or Valkey, e.g. rediss://:secret@redis:6379/0 (default: a private server, embedded only)."""

    objects_url: str | None = None
    """s3://bucket or s3://bucket/prefix, or a folder (default: a folder below FARM_HOME)."""

    s3_endpoint_url: str | None = None
    """Endpoint of an S3-compatible store other than AWS; credentials come from AWS's usual variables or files."""

    models_file: Path | None = None
    """The model registry (default: FARM_HOME/models.toml where it exists, else the built-in one)."""

    owner: str = Field(default_factory=_user_name, max_length=64, pattern=r"^[\w.@-]+$")
    """Owner of the renders submitted here; owners share the farm fairly (default: the user's name)."""

    devices: str = "auto"
    """Devices of this machine that farm-worker serves: auto, or a list of cuda:N, mps, cpu, cpu:N and simulated:N."""

    serve: str = ""
    """Aliases of the models that this machine's workers serve, separated by commas (default: all)."""

    worker_name: str | None = None
    """Name of this machine in workers' names; must be unique in the farm (default: the host's name)."""

    lease_seconds: Seconds = 30
    """How long a claimed job stays with its worker, and a schedule's firing with its scheduler, without a renewal."""

    renew_seconds: Seconds = 10
    """How often leases are renewed: at most half of the lease, preferably a third."""

    stall_seconds: Seconds = 300
    """A device that reports no step for this long counts as hung; sooner once its step time is known."""

    load_seconds: Seconds = 1800
    """How long a model may take to load, including a first download, before its worker counts as hung."""

    max_attempts: PositiveInt = 3
    """A job fails for good after this many attempts."""

    quarantine_seconds: Seconds = 3600
    """How long a device, or a model on it, stays in quarantine after three faults, unless released earlier."""

    sweep_seconds: Seconds = 2
    """How often the scheduler process checks for expired leases and missing tickets."""

    ticket_window: PositiveInt = Field(256, ge=6)
    """Maximum number of tickets per model in Redis, whatever the backlog."""

    turn_seconds: Seconds = 30
    """How long a worker keeps serving one model while jobs of other models wait."""

    loaded_models: NonNegativeInt = 0
    """Maximum number of models that a worker keeps loaded (default 0: as many as fit in memory)."""

    grace_seconds: Seconds = 60
    """How long a stopping worker may take to finish its running batch before its jobs are requeued."""

    prompt_sources: str = ""
    """Where schedules made over HTTP may read prompts at firing, e.g. s3://prompts/ (default: nowhere)."""

    webhook_private: bool = False
    """Allow webhooks to private addresses and over http: in your own network; alike for API and scheduler process."""

    cors_origins: str = ""
    """Origins of web pages that may use the API from a browser, e.g. https://app.example.com, separated by commas."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Log level: debug, info, warning or error."""

    log_format: Literal["text", "json"] = "text"
    """How processes log to standard error: text (lines for people) or json (one object a line, for log collectors)."""

    @model_validator(mode="before")
    @classmethod
    def _from_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        # Not pydantic-settings: every command would wait for its import, a tenth of the time it needs to answer.
        values = {name: os.environ.get(f"FARM_{name.upper()}") for name in cls.model_fields}
        return {name: value for name, value in values.items() if value} | given

    @field_validator("devices")
    @classmethod
    def _known_devices(cls, devices: str) -> str:
        if devices.strip() != "auto":
            for name in devices.split(","):
                if not DEVICE.fullmatch(name.strip()):
                    raise ValueError(f"{name.strip()!r} is not a device; use auto, cuda:N, mps, cpu or simulated:N")
        return devices

    @field_validator("prompt_sources")
    @classmethod
    def _buckets(cls, places: str) -> str:
        for place in filter(None, map(str.strip, places.split(","))):
            if not re.fullmatch(r"s3://[^/\s]+(/\S*)?", place):
                raise ValueError(f"{place!r} is not a place in a bucket; use s3://bucket or s3://bucket/prefix")
        return places

    @field_validator("cors_origins")
    @classmethod
    def _exact_origins(cls, origins: str) -> str:
        for origin in filter(None, map(str.strip, origins.split(","))):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin; name each exactly as browsers do, such as https://app.example.com "
                    "or http://localhost:5173"
                )
        return origins

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, word: object) -> object:
        return word.lower() if isinstance(word, str) else word

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Self:
        if self.renew_seconds > self.lease_seconds / 2:
            raise ValueError("FARM_RENEW_SECONDS must be at most half of FARM_LEASE_SECONDS, or leases expire")
        return self

    @field_validator("database_url")
    @classmethod
    def _with_driver(cls, url: str | None) -> str | None:
        # Hosting services give out postgres:// or postgresql:// URLs; SQLAlchemy wants the driver named.
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url) if url else url

    @property
    def embedded(self) -> bool:
        """True with no address set: then the farm's parts are started here as needed."""
        return self.database_url is None and self.broker_url is None and self.objects_url is None

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of web pages that may use the API."""
        return tuple(filter(None, map(str.strip, self.cors_origins.split(","))))

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.home.absolute() / 'farm.db'}"

    @property
    def objects(self) -> str:
        return self.objects_url or str(self.home.absolute() / "objects")

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            lease_seconds=self.lease_seconds,
            max_attempts=self.max_attempts,
            quarantine_seconds=self.quarantine_seconds,
        )

    @property
    def local_models_file(self) -> Path:
        return self.models_file or self.home / "models.toml"


def misspelt_settings() -> list[str]:
    """Return a warning for each variable FARM_* of the environment that is no setting: nothing reads it."""
    known = [name.upper() for name in Settings.model_fields]
    given = sorted(name.removeprefix("FARM_") for name in os.environ if name.startswith("FARM_"))
    unknown = {name: difflib.get_close_matches(name, known, n=1) for name in given if name not in known}
    return [
        f"FARM_{name} is not a setting"
        + (f"; did you mean FARM_{near[0]}?" if near else " (deploy/env.example lists all)")
        for name, near in unknown.items()
    ]


def read_settings(**overrides: str) -> Settings:
    """Read the settings from the environment; `overrides` come from the command line. Raises BadSettings."""
    try:
        return Settings.model_validate(overrides)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "string_pattern_mismatch":
            message = "must be letters, digits and . _ @ - only"
        if not problem["loc"]:
            raise BadSettings(message) from None
        raise BadSettings(f"FARM_{str(problem['loc'][0]).upper()}={problem['input']!r}: {message}") from None


def broker_address(settings: Settings) -> str:
    """Return the broker's URL. Raises BadSettings if none is set."""
    if settings.broker_url is None:
        raise BadSettings("FARM_BROKER_URL is not set; `farm up` runs a broker on this machine")
    return settings.broker_url


def without_secrets(url: str) -> str:
    """Return an address fit for a message or a log: its password, if any, as ***."""
    # By pattern, not by urlsplit: a password may contain an unescaped slash.
    shown = re.sub(r"^([\w+.-]+://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&][^=&]*(?:password|secret|token|key)[^=&]*=)[^&]*", r"\1***", shown, flags=re.IGNORECASE)
