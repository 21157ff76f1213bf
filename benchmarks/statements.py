"""Counts the statements that a PostgreSQL server is sent, from its own log."""

from pathlib import Path

from benchmarks.queues import plain


class Statements:
    """Counts those of a database, BEGIN and COMMIT among them; the server is the benchmarks' own."""

    def __init__(self, url: str) -> None:
        """Have the server write down every statement. Needs the module psycopg."""
        import psycopg  # other arms run without it

        with psycopg.connect(plain(url), autocommit=True) as connection:
            [name] = connection.execute("SELECT current_database()").fetchone() or [""]
            [folder] = connection.execute("SHOW data_directory").fetchone() or [""]
            connection.execute("ALTER SYSTEM SET log_line_prefix = '[%d] '")
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")
        self._signs = tuple(f"[{name}] LOG:  {kind}".encode() for kind in ("statement:", "execute"))
        self._file = Path(folder, "log")
        self._read, self._counted = self._file.stat().st_size, 0

    def count(self) -> int:
        """Return how many there were since this was made."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        self._counted += sum(line.startswith(self._signs) for line in text.splitlines())
        return self._counted
