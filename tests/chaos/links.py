"""Every cable of the farm: one from each machine, and one from all the rest, to each of the services."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from urllib.parse import urlsplit

from tests.chaos.plan import MACHINES
from tests.mortal import MortalPostgres, MortalRedis
from tests.proxy import HttpProxy, Loop, Moods, Proxy, proxy_loop

#: The schedulers, `farm render` and the driver itself.
REST = "rest"


class SignedUrls:
    """Proxies by service and by who uses them."""

    def __init__(
        self, loop: Loop, stack: ExitStack, targets: dict[str, str | int], rng: Random, *, pooled: bool
    ) -> None:
        #: Whether the cables to PostgreSQL end at PgBouncer.
        self.pooled = pooled
        self._proxies = {
            (service, end): stack.enter_context(_closing(_proxy(loop, service, target, rng)))
            for service, target in targets.items()
            for end in (*MACHINES, REST)
        }

    @property
    def services(self) -> Sequence[str]:
        return sorted({service for service, _ in self._proxies})

    def ends(self, service: str, end: str | None) -> list[Proxy]:
        """One end's cable to a service; all of them for None."""
        return [proxy for (s, e), proxy in self._proxies.items() if s == service and end in (None, e)]

    def port(self, service: str, end: str) -> int:
        return self._proxies[service, end].port

    def set_moods(self, moods: Moods) -> None:
        for proxy in self._proxies.values():
            if isinstance(proxy, HttpProxy):
                proxy.moods = moods

    def environment(self, end: str, *, redis: MortalRedis, postgres: MortalPostgres | None) -> dict[str, str]:
        """The addresses of the services as this end is to use them."""
        address = urlsplit(redis.url)
        found = {
            "FARM_BROKER_URL": f"redis://:{address.password}@127.0.0.1:{self.port('redis', end)}/0",
            "FARM_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port('s3', end)}",
        }
        if postgres is not None:
            found["FARM_DATABASE_URL"] = postgres.tcp_url(self.port("postgresql", end))
        return found


@contextmanager
def open_links(
    *, redis: MortalRedis, s3_endpoint_url: str, postgres: MortalPostgres | None, pooler: int | None, rng: Random
) -> Iterator[SignedUrls]:
    targets: dict[str, str | int] = {"redis": redis.port, "s3": urlsplit(s3_endpoint_url).port or 80}
    if postgres is not None:
        targets["postgresql"] = postgres.socket if pooler is None else pooler
    with proxy_loop() as loop, ExitStack() as stack:
        yield SignedUrls(loop, stack, targets, rng, pooled=pooler is not None)


def _proxy(loop: Loop, service: str, target: str | int, rng: Random) -> Proxy:
    return HttpProxy(loop, int(target), rng) if service == "s3" else Proxy(loop, target)


@contextmanager
def _closing(proxy: Proxy) -> Iterator[Proxy]:
    try:
        yield proxy
    finally:
        proxy.close()
