"""What renders, keys, jobs and batches are called; each name is made in one place."""

import re
import secrets

#: Crockford's base 32 in lower case: no letter that reads as a digit.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_JOB_ID = re.compile(r"([0-9a-z]{1,32})-(\d{1,9})")


def random_id() -> str:
    """Return twelve characters of base 32: 60 bits, not to be guessed."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(12))


def job_id(render_id: str, index: int) -> str:
    """Return the name that people use for a job: `<render>-<index>`, such as k7m2p9x4tq8z-000012."""
    return f"{render_id}-{index:06d}"


def parse_job_id(text: str) -> tuple[str, int] | None:
    """Return render and index; None if the text is not the id of a job."""
    match = _JOB_ID.fullmatch(text)
    return None if match is None else (match[1], int(match[2]))


def batch_id(first_row_id: int, fence: int) -> str:
    """Name a batch by its first job and that job's fence: a job is claimed with one fence once."""
    return f"{first_row_id}.{fence}"
