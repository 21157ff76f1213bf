"""Addresses that webhooks may not go to, one by one."""

import ipaddress
import socket
import threading
from types import SimpleNamespace
from typing import Any

import httpcore
import pytest

from scheduler.intake.addresses import CheckedBackend, Forbidden, as_sent, check_url, is_public
from storage.errors import BadSpecification

INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # the metadata of clouds
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
    "2001:db8::1",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:8.8.8.8", "2002:808:808::"]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_that_leads_inside_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *(f"https://[{address}]/" if ":" in address else f"https://{address}/" for address in INSIDE),
        "https://127.1/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://2130706433/",
        "https://[fe80::1%25eth0]/",
        "http://example.com/",
        "ftp://example.com/",
        "gopher://example.com/",
        "file:///etc/passwd",
        "data:text/plain,x",
        "example.com/hook",
        "https://",
        "https:///path",
        "https://user:pass@example.com/",
        "https://example.com:6379/",
        "https://example.com:80/",
        "https://example.com:99999/",
        "https://[::1/",
        "",
    ],
)
def test_such_a_webhook_is_refused_when_it_is_named(url: str) -> None:
    with pytest.raises(BadSpecification, match="^webhook: "):
        check_url(url, allow_private=False)


@pytest.mark.parametrize("url", ["https://example.com/hook?x=1", "https://example.com:8443/", "https://1.1.1.1/"])
def test_a_webhook_of_the_internet_is_taken(url: str) -> None:
    check_url(url, allow_private=False)


def test_within_ones_own_network_http_and_private_addresses_may_be_allowed() -> None:
    for url in ("http://127.0.0.1:9000/", "http://hooks.internal/", "https://10.0.0.1:6443/x"):
        check_url(url, allow_private=True)
    with pytest.raises(BadSpecification):
        check_url("file:///etc/passwd", allow_private=True)


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_leads_inside_is_not_connected_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Also where only one of its addresses does.
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    resolved = [(socket.AF_INET, 1, 6, "", ("8.8.8.8", 443)), (kind, 1, 6, "", (address, 443))]
    monkeypatch.setattr("scheduler.intake.addresses.socket.getaddrinfo", lambda *_, **__: resolved)
    with pytest.raises(Forbidden, match="not a public address"):
        CheckedBackend(allow_private=False).connect_tcp("hooks.example", 443)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    # A name server that answers otherwise the second time is not asked a second time.
    answers = [[(socket.AF_INET, 1, 6, "", ("8.8.8.8", 443))], [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 443))]]
    connected: list[str] = []

    def connect(_self: Any, host: str, *_: Any) -> None:
        connected.append(host)

    monkeypatch.setattr("scheduler.intake.addresses.socket.getaddrinfo", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    CheckedBackend(allow_private=False).connect_tcp("rebinding.example", 443)
    assert connected == ["8.8.8.8"]


def test_a_name_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr("scheduler.intake.addresses.socket.getaddrinfo", unknown)
    with pytest.raises(httpcore.ConnectError, match="cannot be resolved"):
        CheckedBackend(allow_private=False).connect_tcp("nothing.example", 443)


def test_a_name_of_which_the_resolver_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr("scheduler.intake.addresses.socket.getaddrinfo", lambda *_, **__: free.wait() and [])
    try:
        with pytest.raises(httpcore.ConnectTimeout, match="cannot be resolved: no answer after 0.05 s"):
            CheckedBackend(allow_private=False, seconds=0.05).connect_tcp("never.example", 443)
    finally:
        free.set()


def test_what_resolving_took_is_not_left_for_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    now, patience = [100.0], []

    def resolve(*_: Any, **__: Any) -> Any:
        now[0] += 15
        return [(socket.AF_INET, 1, 6, "", ("8.8.8.8", 443))]

    monkeypatch.setattr("scheduler.intake.addresses.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("scheduler.intake.addresses.socket.getaddrinfo", resolve)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", lambda *given: patience.append(given[3]))
    CheckedBackend(allow_private=False, seconds=20).connect_tcp("slow.example", 443, 20)
    assert patience == [5]


def test_an_address_is_sent_in_the_characters_that_http_has() -> None:
    sent = as_sent("https://bücher.example:8443/a b/é?q=ü%20x#part")
    assert (sent.host, sent.port) == (b"xn--bcher-kva.example", 8443)
    assert sent.target == b"/a%20b/%C3%A9?q=%C3%BC%20x"
    check_url("https://bücher.example/é", allow_private=False)


@pytest.mark.parametrize(
    "url", ["https://a.example/\x01", "https://a.example/\nb", f"https://a.example/{'a' * 70_000}"]
)
def test_an_address_that_cannot_be_sent_is_refused_at_the_door(url: str) -> None:
    with pytest.raises(BadSpecification, match="webhook: invalid URL"):
        check_url(url, allow_private=False)
