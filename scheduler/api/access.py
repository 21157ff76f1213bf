"""Authenticate callers: API keys, their roles and limits."""

import base64
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer

from scheduler.api.problem_kinds import ProblemCode
from scheduler.api.problems import Refused
from scheduler.api.sessions import Sessions
from scheduler.intake.admission import Submitter, webhook_of
from storage.access.keys import Credential, Key, Keys, Limits, Login, Role
from storage.jobs.values import Webhook

#: How long the answer "no key was ever made" is cached.
_KEYLESS_SECONDS = 2.0
#: Where a request's scope has its caller.
_CALLER = "farm_caller"
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
_READING = ("GET", "HEAD")
#: What proxies and content networks add: whoever is behind one is on no known machine.
_OF_PROXIES = (
    *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-forwarded-for"),
    *("true-client-ip", "cf-connecting-ip", "cf-ray", "cdn-loop", "fastly-client-ip", "fly-client-ip"),
)

_bearer = HTTPBearer(auto_error=False, description="An API key from `farm keys create`.")
_basic = HTTPBasic(
    auto_error=False, description="The API key as the password, with any user name: for clients of the web UI."
)
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The API key in a header of its own.")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Represent whoever sends a request."""

    owner: str
    role: Role
    limits: Limits
    #: None: no key was needed.
    key_id: str | None
    #: Of a browser that logged in with the key.
    login: Login | None = None
    #: Of the key, for renders that name none.
    webhook: Webhook | None = None
    #: How they reach this API.
    api_url: str | None = None

    @property
    def sees(self) -> str | None:
        """The owner whose renders they may see; None: every owner's."""
        return None if self.role is Role.ADMIN else self.owner

    @property
    def credential(self) -> Credential:
        """By what they are let in: what ends before they have gone ends what they wait for, too."""
        return Credential(key_id=self.key_id, login=self.login)

    @property
    def submitter(self) -> Submitter:
        return Submitter(
            owner=self.owner, key_id=self.key_id, limits=self.limits, webhook=self.webhook, api_url=self.api_url
        )


class Open(Enum):
    """Who is let in without a key, as long as none was ever made."""

    TO_NOBODY = auto()
    TO_THIS_MACHINE = auto()
    TO_EVERYBODY = auto()


class Access:
    """Authenticate callers.

    Until the first key is made, some callers are let in as the owner `nobody`, whatever key they send: clients of
    OpenAI's and Replicate's cannot be made without one. That ends for good with the first key: a farm whose last key
    expires is closed, not open.
    """

    def __init__(self, keys: Keys, *, nobody: str, without_keys: Open, origins: Collection[str] = ()) -> None:
        """Prepare to let callers in; `origins`: those of foreign web pages that may send requests without a key."""
        self.keys = keys
        #: Of browsers that logged in at the page.
        self.sessions = Sessions(keys)
        self._origins = frozenset(origins)
        #: Who is let in without a key.
        self.nobody = Caller(owner=nobody, role=Role.ADMIN, limits=Limits(), key_id=None)
        self._without_keys = without_keys
        self._looked_at = float("-inf")

    def caller(self, secret: str | None, request: Request, *, form: bool = False) -> Caller:
        """Return who presents this key or, without any, has logged in. Raises Refused: 401 without a valid key.

        Args:
            form: the request is checked to come from a form of the page. Else a login counts for reading alone: a
                browser sends its cookie whoever wrote the page that asks.
        """
        key, login = self.keys.find(secret) if secret else None, None
        if secret is None and (form or request.method in _READING):
            key, login = self.sessions.key_of(request)
        if key is not None:
            return _caller(key, login)
        if self._without_keys is not Open.TO_NOBODY and self._keyless():
            if self._without_keys is Open.TO_THIS_MACHINE:
                _refuse_other_machines(request)
            _refuse_strange_pages(request, self._origins)
            return self.nobody
        if secret:
            raise Refused(
                401,
                "the API key is unknown, expired or revoked",
                {"WWW-Authenticate": "Bearer"},
                code=ProblemCode.INVALID_API_KEY,
            )
        raise Refused(
            401,
            "an API key is required: Authorization: Bearer farm_…; `farm keys create` creates one",
            {"WWW-Authenticate": "Bearer"},
        )

    def _keyless(self) -> bool:
        if time.monotonic() - self._looked_at > _KEYLESS_SECONDS:
            if self.keys.any_made():
                self._without_keys = Open.TO_NOBODY
                return False
            self._looked_at = time.monotonic()
        return True


def _caller(key: Key, login: Login | None) -> Caller:
    webhook = webhook_of(key)
    return Caller(owner=key.owner, role=key.role, limits=key.limits, key_id=key.id, login=login, webhook=webhook)


def _refuse_other_machines(request: Request) -> None:
    """Refuse requests that came through a proxy, or were addressed to a name that is not this machine's own."""
    for name in request.headers:
        if name in _OF_PROXIES or name.startswith("x-forwarded-"):
            raise Refused(
                401,
                f"the request came through a proxy (it has the header {name}): an API key is required; "
                "`farm keys create` creates one",
                {"WWW-Authenticate": "Bearer"},
            )
    if request.scope.get("http_version") == "1.0":
        # nginx told nothing but an address adds no header, and speaks so to what is behind it.
        raise Refused(
            401,
            "the request is of HTTP/1.0, as proxies send it: an API key is required; `farm keys create` creates one",
            {"WWW-Authenticate": "Bearer"},
        )
    host = request.url.hostname or ""
    if host not in _LOCAL_HOSTS:
        raise Refused(
            403,
            f"without API keys only requests to this machine's own address are allowed, not to {host[:100]!r}",
            code=ProblemCode.FOREIGN_REQUEST,
        )


def _refuse_strange_pages(request: Request, origins: Collection[str]) -> None:
    """Refuse requests of foreign web pages that are open in a caller's browser, but for those of these origins."""
    origin = request.headers.get("origin")
    if origin is not None and origin not in origins and origin != f"{request.url.scheme}://{request.url.netloc}":
        raise Refused(
            403,
            "without API keys no other web page may send requests; `farm keys create` creates a key, and "
            "FARM_CORS_ORIGINS names the pages that may use it",
            code=ProblemCode.FOREIGN_REQUEST,
        )


def secret_of(request: Request) -> str | None:
    """Return the key that a request shows, of all forms in which `allowed` takes one; None if it shows none."""
    scheme, _, said = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return said
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(said).decode().partition(":")[2]
        except ValueError:
            return ""
    return request.headers.get("x-api-key")


def caller_of(scope: Mapping[str, Any]) -> Caller | None:
    """Return who sent a request that was let in; None for one that was not, or that asked for nobody's."""
    return scope.get(_CALLER)


def allowed(needed: Role) -> Callable[..., Caller]:
    """Return a dependency that yields the caller if their role covers the needed one. Raises Refused (401, 403)."""

    def caller(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
        basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)] = None,
        header: Annotated[str | None, Depends(_header)] = None,
    ) -> Caller:
        secret = bearer.credentials if bearer else basic.password if basic else header
        return let_in(request, secret, needed)

    return caller


def let_in(request: Request, secret: str | None, needed: Role, *, form: bool = False) -> Caller:
    """Return who sends a request, if their role covers the needed one; `form` as in `Access.caller`.

    Raises Refused (401, 403).
    """
    access: Access = request.app.state.access
    found = replace(access.caller(secret, request, form=form), api_url=str(request.base_url))
    if not found.role.covers(needed):
        words = f"this API key has the role {found.role}; the role {needed} is required"
        raise Refused(403, words, code=ProblemCode.ROLE_REQUIRED)
    request.scope[_CALLER] = found
    return found


CanRead = Annotated[Caller, Depends(allowed(Role.READ))]
CanSubmit = Annotated[Caller, Depends(allowed(Role.SUBMIT))]
CanAdminister = Annotated[Caller, Depends(allowed(Role.ADMIN))]
