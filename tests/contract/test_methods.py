"""What each address of the API does, and which of it is named where it is asked for something else (405)."""

import re
from collections.abc import Iterator, Mapping

import pytest
from starlette.routing import Route

from scheduler.api.access import Open
from scheduler.api.app import make_api
from scheduler.api.parameters import STREAMED
from tests.contract.stage import Stage, running_stage

#: Thousands of requests.
pytestmark = pytest.mark.slow

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("methods") / "home") as stage:
        yield stage


@pytest.fixture(scope="module")
def addresses(stage: Stage) -> Mapping[str, set[str]]:
    """An address of each route → all methods that any route has for it."""
    top = make_api(stage.context, without_keys=Open.TO_NOBODY).routes
    # FastAPI keeps the routers that were included as they are.
    of_routers = [route for one in top for route in getattr(getattr(one, "original_router", None), "routes", ())]
    routes = [one for one in (*top, *of_routers) if isinstance(one, Route)]
    examples = {re.sub(r"\{[^}]+\}", "x1", route.path) for route in routes}
    found = {
        address: set().union(*(route.methods or () for route in routes if route.path_regex.fullmatch(address)))
        for address in examples
    }
    # HEAD is answered as GET, but for what goes on and on.
    return {
        address: methods | ({"HEAD"} if "GET" in methods and not address.endswith(STREAMED) else set())
        for address, methods in found.items()
    }


def test_every_address_names_all_its_methods_where_another_is_used(
    stage: Stage, addresses: Mapping[str, set[str]]
) -> None:
    assert len(addresses) > 50
    for address, methods in addresses.items():
        for method in set(METHODS) - methods:
            answer = stage.client().request(method, address)
            allowed = set(answer.headers.get("allow", "").split(", "))
            assert (method, address, answer.status_code, allowed) == (method, address, 405, methods)
            # An answer to HEAD has no words.
            if method != "HEAD":
                assert f"{method} does nothing at {address}; use " in answer.text


def test_no_method_that_is_named_is_refused_as_one_that_does_nothing(
    stage: Stage, addresses: Mapping[str, set[str]]
) -> None:
    for address, methods in addresses.items():
        # Some would stop what other tests use.
        for method in methods & {"GET", "HEAD"}:
            if not address.endswith(STREAMED):
                assert stage.client().request(method, address).status_code != 405
