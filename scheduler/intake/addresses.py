"""Connect to URLs that callers name: only to public addresses, and to exactly those that were checked.

A name is resolved once, and the connection goes to what was resolved and checked: a name server that answers
differently the second time changes nothing (DNS rebinding). No redirects, no proxies.
"""

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from storage.errors import BadSpecification

#: What to do about a receiver that is refused.
PRIVATE_HINT = (
    "to allow receivers in your own network, set FARM_WEBHOOK_PRIVATE=true for the API and the scheduler process"
)
_IPv4Or6 = ipaddress.IPv4Address | ipaddress.IPv6Address
#: IPv6 networks that lead to IPv4 addresses: NAT64 and 6to4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(Exception):
    """Raised when an address is not public."""


def check_url(url: str, *, allow_private: bool) -> None:
    """Check the URL of a webhook, without resolving its name. Raises BadSpecification."""
    try:
        parts = urlsplit(url)
        port = parts.port
        as_sent(url)
    except (ValueError, httpx.InvalidURL):
        raise BadSpecification("webhook: invalid URL") from None
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        hint = f"; {PRIVATE_HINT}" if parts.scheme == "http" else ""
        raise BadSpecification(f"webhook: expected {schemes[0]}://host/path{hint}")
    if parts.username is not None or parts.password is not None:
        raise BadSpecification("webhook: user name and password are not allowed in the URL; messages are signed")
    if allow_private:
        return
    if port not in (None, 443, 8443):
        raise BadSpecification(f"webhook: the port must be 443 or 8443; {PRIVATE_HINT}")
    try:
        resolved = _literal(parts.hostname)
        if resolved is not None and not is_public(resolved):
            raise Forbidden
    except Forbidden:
        raise BadSpecification(f"webhook: not a public address; {PRIVATE_HINT}") from None


def as_sent(url: str) -> httpcore.URL:
    """Return a URL in the characters that HTTP has: names in IDNA, all else with percent signs.

    Raises httpx.InvalidURL, ValueError.
    """
    read = httpx.URL(url)
    return httpcore.URL(scheme=read.raw_scheme, host=read.raw_host, port=read.port, target=read.raw_path)


def is_public(address: _IPv4Or6) -> bool:
    """Return whether an address is public, also one that is embedded in an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _literal(host: str) -> _IPv4Or6 | None:
    """Return a literal address, in any notation that resolvers take (0x7f.1, 2130706433); None for a name."""
    try:
        return ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def resolve(host: str, port: int, *, seconds: float) -> list[str]:
    """Return the addresses of a name. Raises httpcore.ConnectError, ConnectTimeout if no answer comes in time.

    The system's resolver waits as long as it likes, and cannot be interrupted: its thread stays behind until it is
    done, and keeps no process from ending.
    """
    answered: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answered.put([str(entry[4][0]) for entry in found])
        except (OSError, UnicodeError) as error:  # a name that is none in IDNA is the latter
            answered.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answered.get(timeout=seconds)
    except queue.Empty:
        raise httpcore.ConnectTimeout(f"{host} cannot be resolved: no answer after {seconds:g} s") from None
    if not isinstance(answer, list):
        raise httpcore.ConnectError(f"{host} cannot be resolved: {answer}") from None
    return answer


class BoundedStream(httpcore.NetworkStream):
    """A connection that lives no longer than its time, however slowly the other side trickles."""

    def __init__(self, stream: httpcore.NetworkStream, *, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._left(timeout, httpcore.ConnectTimeout)
        return BoundedStream(self._stream.start_tls(ssl_context, server_hostname, left), deadline=self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _left(self, timeout: float | None, error: type[httpcore.TimeoutException]) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise error("the attempt took too long")
        return left if timeout is None else min(timeout, left)


class CheckedBackend(httpcore.SyncBackend):
    """Open connections to what a name resolves to, if all of its addresses are public."""

    def __init__(self, *, allow_private: bool, seconds: float = 20.0) -> None:
        self._allow_private = allow_private
        self._seconds = seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a checked address. Raises Forbidden, httpcore.ConnectError, httpcore.ConnectTimeout."""
        deadline = time.monotonic() + self._seconds
        addresses = resolve(host, port, seconds=self._seconds)
        if not self._allow_private:
            for address in addresses:
                if not is_public(ipaddress.ip_address(address.split("%", 1)[0])):
                    raise Forbidden(f"{host} resolves to {address}, which is not a public address; {PRIVATE_HINT}")
        left = max(deadline - time.monotonic(), 0.001)  # 0 would be: without waiting
        patience = left if timeout is None else min(left, timeout)
        stream = super().connect_tcp(addresses[0], port, patience, local_address, socket_options)
        return BoundedStream(stream, deadline=deadline)


def pool(*, allow_private: bool, seconds: float = 20.0) -> httpcore.ConnectionPool:
    """Return a pool of connections to callers' URLs, each of which lives for so many seconds at most."""
    return httpcore.ConnectionPool(
        ssl_context=httpx.create_ssl_context(trust_env=False),
        network_backend=CheckedBackend(allow_private=allow_private, seconds=seconds),
        # As many as deliveries: none waits for another one's receiver.
        max_connections=None,
        # One connection per message, to an address that was checked for it.
        max_keepalive_connections=0,
    )
