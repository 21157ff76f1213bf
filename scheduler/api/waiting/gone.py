"""Notice that a caller has gone."""

from starlette.types import Receive

#: The status of an answer that nobody reads: nginx's word for it.
CLIENT_CLOSED_REQUEST = 499


async def gone(receive: Receive) -> None:
    """Return when the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
