"""Acknowledgements that do not reach Redis.

In kombu 5.7, an acknowledgement that Redis does not answer in time (`socket_timeout`) leaves its ticket counted as
unacknowledged. With a prefetch of one, the worker would never take another ticket, although its connection works
again. Here the ticket is let go all the same: Redis redelivers it after the visibility timeout, which does no harm.
"""

from kombu.transport import redis, virtual


class ForgivingQoS(redis.QoS):
    """Lets go of a ticket even if Redis could not be told."""

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        except Exception:
            virtual.QoS.ack(self, delivery_tag)
            raise


def install() -> None:
    """Use it for all Redis connections of this process."""
    redis.Channel.QoS = ForgivingQoS
