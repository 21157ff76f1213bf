"""What tickets and queues are called, also inside Redis."""

from storage.rules.states import Priority

#: The one task there is; its argument is a model's alias.
TURN_TASK = "farm.turn"
#: Every key of the farm's begins with it.
KEY_PREFIX = "farm:"
#: The hash in which Kombu keeps what workers hold (`kombu.transport.redis.Channel.unacked_key`).
UNACKED_KEY = f"{KEY_PREFIX}unacked"
#: What Kombu puts between a queue's name and a priority (`Channel.sep`).
_PRIORITY_SEPARATOR = "\x06\x16"


def queue_name(model: str) -> str:
    """Return the queue of a model."""
    return f"model.{model}"


def list_key(model: str, priority: Priority) -> str:
    """Return the Redis list in which Kombu keeps a queue's messages of one priority (`Channel._q_for_pri`)."""
    suffix = f"{_PRIORITY_SEPARATOR}{int(priority)}" if priority else ""
    return f"{KEY_PREFIX}{queue_name(model)}{suffix}"
