"""API keys: who may do what, and how much. A key is shown once, when it is made; only its hash is stored."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, or_, select, update

from storage.database.connection import Database, database_now, transaction
from storage.database.key_tables import ended_logins, keys
from storage.database.upsert import insert_on_conflict
from storage.database.webhook_tables import noted_settings
from storage.errors import BadSpecification, NotFound
from storage.rules.ids import random_id

#: `farm_<id>_<secret>`: the id finds the row, 32 random bytes of secret are too many to guess.
_KEY = re.compile(r"farm_([0-9a-z]{12})_([\w-]{43})")
#: As FARM_OWNER.
_OWNER = re.compile(r"[\w.@-]{1,64}")
#: What is noted with the first key, for good.
_MADE = {"process": "keys", "name": "made"}


class Role(StrEnum):
    """What a key may do; each may do what those before it may."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def covers(self, needed: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the holder of a key may submit; None: unlimited."""

    #: Pictures that wait or run at once.
    queued: int | None = None
    #: Pictures accepted within any 24 hours.
    per_day: int | None = None
    #: Pixels × steps of one picture.
    work: int | None = None
    #: Submissions a minute.
    per_minute: int | None = None
    #: Uploads that are kept at once, and their bytes.
    uploads: int | None = None
    upload_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key as far as it may be shown."""

    id: str
    name: str
    owner: str
    role: Role
    limits: Limits
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    #: Where events of its renders are sent that name no webhook of their own; None: nowhere.
    webhook_url: str | None = None
    webhook_events: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Login:
    """A browser's, with a key."""

    name: str
    #: When it ends by itself, seconds since 1970.
    until: float


@dataclass(frozen=True, kw_only=True)
class Credential:
    """By what somebody is let in."""

    #: None: no key was needed.
    key_id: str | None
    #: Of a browser: by this one of the key's logins alone.
    login: Login | None = None


class Keys:
    """Making, finding and revoking keys."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(
        self, *, name: str, owner: str, role: Role, limits: Limits, seconds: float | None = None
    ) -> tuple[Key, str]:
        """Create a key; the key, and its secret form, which is shown this once and never again.

        Args:
            seconds: how long it is valid; None: until it is revoked.

        Raises BadSpecification for a name or owner that is not allowed.
        """
        if not _OWNER.fullmatch(owner):
            raise BadSpecification(f"owner: {owner!r}; expected up to 64 letters, digits, dots, dashes and @")
        if not name.strip() or len(name) > 100:
            raise BadSpecification("name: expected 1 to 100 characters describing what the key is for")
        key_id = random_id()
        secret = secrets.token_urlsafe(32)
        self._insert(
            {
                "id": key_id,
                "name": name.strip(),
                "owner": owner,
                "role": role,
                "limits": json.dumps(asdict(limits)),
                "hash": _hash(secret),
                "created_at": database_now(),
                "expires_at": None if seconds is None else database_now() + seconds,
            }
        )
        return self._one(key_id), f"farm_{key_id}_{secret}"

    @transaction
    def _insert(self, connection: Connection, row: Mapping[str, Any]) -> None:
        connection.execute(insert(keys).values(**row))
        # A farm whose keys somebody deletes from the table stays closed all the same.
        made = insert_on_conflict(connection, noted_settings)
        connection.execute(made.values(**_MADE, value="true", noted_at=database_now()).on_conflict_do_nothing())

    def find(self, text: str) -> Key | None:
        """Return the key that a caller presents; None if it is unknown, wrong, expired or revoked."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        with self.database.ask() as connection:
            row = connection.execute(select(keys, database_now().label("now")).where(keys.c.id == match[1])).first()
        # In constant time: its duration reveals nothing about the secret.
        right = hmac.compare_digest(_hash(match[2]), "" if row is None else row.hash)
        if row is None or not right or row.revoked_at is not None:
            return None
        return None if row.expires_at is not None and row.expires_at <= row.now else _key(row)

    def usable(self, key_id: str, *, login: Login | None = None) -> Key | None:
        """Return a key by its id; None if it is expired or revoked; `login`: also if that has been ended."""
        statement = select(keys).where(
            keys.c.id == key_id,
            keys.c.revoked_at.is_(None),
            keys.c.expires_at.is_(None) | (keys.c.expires_at > database_now()),
        )
        if login is not None:
            statement = statement.where(~exists().where(ended_logins.c.login == login.name))
        with self.database.ask() as connection:
            row = connection.execute(statement).first()
        return None if row is None else _key(row)

    @transaction
    def end_login(self, connection: Connection, login: Login) -> None:
        """End a login before its time, in every process."""
        connection.execute(delete(ended_logins).where(ended_logins.c.until < database_now()))
        ended = insert_on_conflict(connection, ended_logins).values(login=login.name, until=login.until)
        connection.execute(ended.on_conflict_do_nothing())

    def ended(self, credentials: Collection[Credential]) -> set[Credential]:
        """Return those of these that let nobody in any more; no key does until the first one is made."""
        usable = self._usable_of({one.key_id for one in credentials if one.key_id is not None})
        if any(one.key_id is None for one in credentials) and not self.any_made():
            usable.add(None)
        logins = [one.login for one in credentials if one.login is not None]
        over = self._ended_of({login.name for login in logins})
        over |= {login.name for login in logins if login.until <= time.time()}
        return {one for one in credentials if one.key_id not in usable or (one.login and one.login.name in over)}

    def _ended_of(self, logins: Collection[str]) -> set[str]:
        if not logins:
            return set()
        statement = select(ended_logins.c.login).where(ended_logins.c.login.in_(sorted(logins)))
        with self.database.ask() as connection:
            return set(connection.execute(statement).scalars())

    def _usable_of(self, key_ids: Collection[str]) -> set[str | None]:
        """Return those of these keys, by id, that are neither expired nor revoked."""
        if not key_ids:
            return set()
        statement = select(keys.c.id).where(
            keys.c.id.in_(sorted(key_ids)),
            keys.c.revoked_at.is_(None),
            keys.c.expires_at.is_(None) | (keys.c.expires_at > database_now()),
        )
        with self.database.ask() as connection:
            return set(connection.execute(statement).scalars())

    def all(self) -> Sequence[Key]:
        """List all keys, oldest first."""
        with self.database.read() as connection:
            return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id))]

    def any_made(self) -> bool:
        """Return whether a key was ever made, valid or not."""
        noted = select(noted_settings.c.value).where(*(noted_settings.c[name] == of for name, of in _MADE.items()))
        with self.database.ask() as connection:
            return connection.execute(select(or_(exists(select(keys.c.id)), exists(noted)))).scalar_one()

    @transaction
    def revoke(self, connection: Connection, key_id: str) -> None:
        """Revoke a key. Idempotent. Raises NotFound."""
        known = connection.execute(select(keys.c.id).where(keys.c.id == key_id)).first()
        if known is None:
            raise NotFound(f"no key with id {key_id[:40]!r}; `farm keys list` lists them")
        connection.execute(
            update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=database_now())
        )

    @transaction
    def set_webhook(self, connection: Connection, key_id: str, url: str | None, events: Collection[str] = ()) -> None:
        """Set where events of a key's later renders are sent, and which; None: nowhere. Idempotent."""
        told = {"webhook_url": url, "webhook_events": None if url is None else " ".join(events)}
        connection.execute(update(keys).where(keys.c.id == key_id).values(**told))

    def _one(self, key_id: str) -> Key:
        with self.database.read() as connection:
            return _key(connection.execute(select(keys).where(keys.c.id == key_id)).one())


def _hash(secret: str) -> str:
    # Of 256 random bits: a slow hash would add nothing.
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Row[Any]) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        owner=row.owner,
        role=Role(row.role),
        limits=Limits(**json.loads(row.limits)),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        webhook_url=row.webhook_url,
        webhook_events=tuple((row.webhook_events or "").split()),
    )
