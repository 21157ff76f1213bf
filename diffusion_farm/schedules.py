"""Schedules of a farm: `farm.schedules.add("nightly", cron="0 2 * * *", render={"prompt": "a red star"})`."""

from collections.abc import Callable, Mapping
from typing import Any

import httpx

#: Sends a request and returns its answer (`diffusion_farm.client.Farm`).
Ask = Callable[..., httpx.Response]


class FarmSchedules:
    """The schedules of the key's owner, as the API's JSON has them. Everything here raises ApiProblem."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def add(
        self, name: str, *, render: Mapping[str, Any], cron: str | None = None, at: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Add a schedule and return it: one that fires whenever `cron` says, or once, at a time.

        Args:
            render: what `Farm.submit` takes.
            fields: `timezone`, `window`, `overlap` and whatever else the API takes.
        """
        times = {name: value for name, value in (("cron", cron), ("at", at)) if value is not None}
        return _told(self._ask("POST", "/v1/schedules", json={"name": name, **times, "render": dict(render), **fields}))

    def edit(self, name: str, **fields: Any) -> dict[str, Any]:
        """Change these parts of a schedule, before a firing or after it, and return it; its history stays."""
        return _told(self._ask("PATCH", _path(name), json=fields))

    def agenda(self, *, days: int = 2) -> dict[str, Any]:
        """Return what will run when in the next days, for how long, and what does not fit its window."""
        return _told(self._ask("GET", "/v1/agenda", params={"days": days}))

    def all(self) -> list[dict[str, Any]]:
        """Return every schedule."""
        return list(self._ask("GET", "/v1/schedules").json())

    def get(self, name: str) -> dict[str, Any]:
        """Return a schedule and its next run."""
        return _told(self._ask("GET", _path(name)))

    def history(self, name: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return what became of its past runs, newest first."""
        return list(self._ask("GET", f"{_path(name)}/history", params={"limit": limit}).json())

    def pause(self, name: str) -> dict[str, Any]:
        """Pause a schedule until it is resumed. Idempotent."""
        return _told(self._ask("POST", f"{_path(name)}/pause", again=True))

    def resume(self, name: str) -> dict[str, Any]:
        """Resume a schedule. Idempotent."""
        return _told(self._ask("POST", f"{_path(name)}/resume", again=True))

    def run_now(self, name: str) -> str | None:
        """Run a schedule once now and return its render's id, accepted; None if a rule forbids it (see `history`)."""
        render_id = self._ask("POST", f"{_path(name)}/run-now").json()["render_id"]
        return None if render_id is None else str(render_id)

    def remove(self, name: str) -> None:
        """Remove a schedule; its renders stay."""
        self._ask("DELETE", _path(name))


def _path(name: str) -> str:
    # Names have spaces and @.
    return f"/v1/schedules/{httpx.URL(path=f'/{name}').raw_path.decode()[1:]}"


def _told(answer: httpx.Response) -> dict[str, Any]:
    told: dict[str, Any] = answer.json()
    return told
