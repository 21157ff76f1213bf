"""An HTTP API that accepts renders into a dictionary, on the farm's web framework.

uvicorn benchmarks.peers.bare_api:app

The least that an API can do: no database, no keys, no checks but those of the types.
"""

import itertools
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
_renders: dict[str, dict[str, Any]] = {}
_numbers = itertools.count(1)


class Wanted(BaseModel):
    """A render as it is asked for."""

    prompt: str
    model: str


@app.post("/v1/renders", status_code=201)
async def accept(wanted: Wanted) -> dict[str, Any]:
    """Accept a render, which is done at once."""
    found = {"id": f"r{next(_numbers)}", "state": "done", "prompt": wanted.prompt}
    _renders[found["id"]] = found
    return found


@app.get("/v1/renders/{render}")
async def status(render: str) -> dict[str, Any]:
    """Return a render."""
    return _renders[render]


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}
