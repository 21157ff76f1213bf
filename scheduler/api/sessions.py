"""Know the browsers that logged in with a key, by a signed cookie, and the forms that the page gave them.

The cookie names the key and does not hold it. Every request looks the key up: revoked, it ends all of its logins at
once. Whoever logs out ends the login for all who have its cookie: a row has its name until it would have ended by
itself. Forms carry a token that is made from the cookie, which no other site can read.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from functools import cached_property

from fastapi import Request, Response

from storage.access.keys import Key, Keys, Login
from storage.access.signing import SigningSecrets

#: A working day.
SESSION_SECONDS = 12 * 3600
SESSION = "farm_session"
#: Of a browser that has not logged in, for its forms.
VISIT = "farm_visit"
_SECRET = "page"  # noqa: S105 - its name


class Sessions:
    """Logins; they are valid in every process of the farm."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @cached_property
    def _secret(self) -> bytes:
        return base64.b64decode(SigningSecrets(self._keys.database).get(_SECRET))

    def begin(self, request: Request, key: Key) -> str:
        """Log a browser in with a key: the rest of this request is of the login that is returned."""
        until = int(time.time()) + SESSION_SECONDS
        if key.expires_at is not None:
            until = min(until, int(key.expires_at))
        said = f"{key.id}.{until}.{secrets.token_urlsafe(12)}"
        login = f"{said}.{self._sign(f'session {said}')}"
        request.cookies[SESSION] = login
        return login

    def note_login(self, request: Request, response: Response, login: str) -> None:
        """Have a browser known as logged in."""
        self._set(request, response, SESSION, login)

    def end(self, request: Request, response: Response) -> None:
        """Log a browser out: whoever else has its cookie is logged out, too."""
        if (found := self._login_of(request)) is not None:
            self._keys.end_login(found[1])
        response.delete_cookie(SESSION, path=_path(request))

    def key_of(self, request: Request) -> tuple[Key | None, Login | None]:
        """Return the key that a browser logged in with, and the login; None if it did not, or one of them has ended."""
        found = self._login_of(request)
        key = None if found is None else self._keys.usable(found[0], login=found[1])
        return (None, None) if found is None or key is None else (key, found[1])

    def _login_of(self, request: Request) -> tuple[str, Login] | None:
        """Return the key's id, and the login if this farm gave the cookie."""
        value = request.cookies.get(SESSION, "")
        said, _, signature = value.rpartition(".")
        if not said or not hmac.compare_digest(self._sign(f"session {said}").encode(), signature.encode()):
            return None
        key_id, until, name = said.split(".")
        return (key_id, Login(name=name, until=int(until))) if int(until) > time.time() else None

    def form_token(self, request: Request) -> str:
        """Return what every form of a page has for a browser that has been here; empty for one that was not."""
        value = request.cookies.get(SESSION) or request.cookies.get(VISIT)
        return self._sign(f"form {value}") if value else ""

    def is_own_form(self, request: Request, token: str) -> bool:
        """Return whether a form was given by this farm to the browser that sends it."""
        expected = self.form_token(request)
        return bool(expected) and hmac.compare_digest(expected.encode(), token.encode())

    def visit(self) -> tuple[str, str]:
        """Return a cookie's value for a browser that was never here, and the token of its forms."""
        value = secrets.token_urlsafe(18)
        return value, self._sign(f"form {value}")

    def note_visit(self, request: Request, response: Response, visit: str) -> None:
        """Have a browser known for its forms."""
        self._set(request, response, VISIT, visit)

    def _sign(self, said: str) -> str:
        digest = hmac.new(self._secret, said.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _set(self, request: Request, response: Response, name: str, value: str) -> None:
        set_cookie(request, response, name, value, seconds=SESSION_SECONDS)


def set_cookie(request: Request, response: Response, name: str, value: str, *, seconds: int) -> None:
    """Give a browser a cookie that neither scripts nor, but for links, other sites' pages can use."""
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, max_age=seconds, path=_path(request), httponly=True, samesite="lax", secure=secure)


def say_next(request: Request, response: Response, words: str) -> None:
    """Have the next page that a browser gets say this."""
    told = base64.urlsafe_b64encode(words.encode()[:_MOST_BYTES]).decode()
    set_cookie(request, response, SAID, told, seconds=60)


def said_before(request: Request) -> str | None:
    """Return what the page before wanted said."""
    value = request.cookies.get(SAID)
    try:
        return base64.urlsafe_b64decode(value).decode("utf-8", "ignore") if value else None
    except (binascii.Error, ValueError):
        return None


def forget_said(request: Request, response: Response) -> None:
    """Have it said once."""
    response.delete_cookie(SAID, path=_path(request))


SAID = "farm_said"
#: Browsers keep cookies of 4 kB.
_MOST_BYTES = 2400


def _path(request: Request) -> str:
    return str(request.scope.get("root_path") or "/")
