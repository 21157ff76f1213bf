"""What Redis and Kombu raise, in the farm's own words."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from storage.errors import BrokerProblem


@contextmanager
def translated(shown: str, *others: type[Exception]) -> Iterator[None]:
    """Raise BrokerProblem for what goes wrong with the broker of this address, other libraries' errors included."""
    expected: tuple[type[Exception], ...] = (redis.RedisError, OSError, *others)
    try:
        yield
    except expected as error:
        # Kombu wraps Redis's error.
        if isinstance(error, redis.AuthenticationError) or isinstance(error.__cause__, redis.AuthenticationError):
            raise BrokerProblem(
                f"broker {shown}: the password is refused ({error}); correct FARM_BROKER_URL"
            ) from error
        raise BrokerProblem(f"broker {shown}: {str(error).rstrip('.')}; check FARM_BROKER_URL") from error
