"""A database with a long past, filled within seconds: renders that are done, and some that wait."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause, bindparam, text

from storage.database.connection import Database
from storage.database.schema import upgrade
from storage.spec.picture import Spec

OWNERS = ("ann", "ben", "cid")
#: One picture in so many is of this prompt.
RARE, RARE_EVERY = "a small purple hexagon", 1000
_PICTURE_BYTES = 400_000
#: What waits, by the way: a page each of several renders.
_WAITING = 30

#: The same on SQLite and PostgreSQL: a number for each row, and what follows from it.
_NUMBERS = (
    "WITH RECURSIVE numbers(n) AS (SELECT CAST(:first AS integer) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last) "
)
_RENDERS = f"""
INSERT INTO renders (
    id, owner, priority, total, done, created_at, finished_at, models, stored_bytes, first_done_at, last_done_at
) {_NUMBERS}
SELECT CAST(:name AS text) || n, CASE n % 3 WHEN 0 THEN 'ann' WHEN 1 THEN 'ben' ELSE 'cid' END, 1, :pictures, :done,
    :now - 60.0 * (:renders - n), CASE WHEN :done = :pictures THEN :now - 60.0 * (:renders - n) + 50 END, :models,
    CAST(:bytes AS bigint) * :done, CASE WHEN :done > 0 THEN :now - 60.0 * (:renders - n) + 1 END,
    CASE WHEN :done > 0 THEN :now - 60.0 * (:renders - n) + 50 END
FROM numbers
"""  # noqa: S608 - our own text
_JOBS = f"""
INSERT INTO jobs (
    render_id, "index", owner, model, priority, round, batch_key, seed, spec, state, attempt, fence, worker, started_at,
    finished_at, batch_id, object, sha256, bytes
) {_NUMBERS}
SELECT CAST(:name AS text) || (n / :pictures), n % :pictures,
    CASE (n / :pictures) % 3 WHEN 0 THEN 'ann' WHEN 1 THEN 'ben' ELSE 'cid' END, :model, 1, n / 8, 'key', n,
    replace(CASE WHEN n % {RARE_EVERY} = {RARE_EVERY - 1} THEN CAST(:rare AS text) ELSE CAST(:spec AS text) END,
        '"seed"\\:0', '"seed"\\:' || n),
    :state, 1, 1, CASE WHEN :state = 'done' THEN 'gpu0@past' END,
    CASE WHEN :state = 'done' THEN :now - 60.0 * (:renders - n / :pictures) END,
    CASE WHEN :state = 'done' THEN :now - 60.0 * (:renders - n / :pictures) + 50 END,
    CASE WHEN :state = 'done' THEN 'batch' || (n / 8) END,
    CASE WHEN :state = 'done'
        THEN 'renders/' || CAST(:name AS text) || (n / :pictures) || '/' || (n % :pictures) || '.png' END,
    CASE WHEN :state = 'done' THEN '{"0" * 64}' END, CASE WHEN :state = 'done' THEN :bytes END
FROM numbers
"""  # noqa: S608 - our own text


@dataclass(frozen=True, kw_only=True)
class Past:
    """How much has happened: renders of so many pictures each, and one large render."""

    renders: int
    pictures_each: int
    gallery: int
    model: str = "quick"

    @property
    def jobs(self) -> int:
        """All pictures."""
        return self.renders * self.pictures_each + self.gallery + _WAITING * self.pictures_each


#: The id of the large render.
GALLERY = "gallery0"


def fill(url: str, past: Past, *, now: float) -> None:
    """Make tables, and a past in them; `now`: seconds since 1970."""
    with closing(Database(url)) as database:
        upgrade(database)
        same = {"now": now, "model": past.model, "models": f" {past.model} ", "bytes": _PICTURE_BYTES}
        texts = {"spec": _spec(past.model, "a large red star"), "rare": _spec(past.model, RARE)}
        for name, renders, pictures, done in (
            ("past", past.renders, past.pictures_each, True),
            ("gallery", 1, past.gallery, True),
            ("waiting", _WAITING, past.pictures_each, False),
        ):
            said: dict[str, Any] = {**same, "name": name, "renders": renders, "pictures": pictures}
            made = {**said, "done": pictures if done else 0, "first": 0, "last": renders - 1}
            with database.write() as connection:
                connection.execute(_with(_RENDERS, made))
            for first, last in _pieces(renders * pictures):
                rows = {**said, **texts, "state": "done" if done else "queued", "first": first, "last": last}
                with database.write() as connection:
                    connection.execute(_with(_JOBS, rows))
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))


@contextmanager
def filled(url: str, past: Past, *, now: float) -> Iterator[str]:
    """The same, as what is kept."""
    fill(url, past, now=now)
    yield url


def _with(statement: str, values: Mapping[str, Any]) -> TextClause:
    """Write values into a statement: PostgreSQL would have to guess their types."""
    found = text(statement)
    return found.bindparams(
        *(bindparam(name, value, literal_execute=True) for name, value in values.items() if name in found._bindparams)
    )


def _pieces(rows: int) -> Iterator[tuple[int, int]]:
    most = 100_000
    return ((first, min(rows, first + most) - 1) for first in range(0, rows, most))


def _spec(model: str, prompt: str) -> str:
    same = {"negative_prompt": "", "width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 5.0}
    return Spec.model_validate({"model": model, "prompt": prompt, "sampler": None, "seed": 0, **same}).canonical()
