"""Pages that are open, as browsers keep them (`live.js`): events say when to look again, and new pictures are fetched.

A request `open` names addresses, of which each is a page; `close` ends all, and its answer says of each page when each
picture was first there, by the clock, and how many looks there were together.
"""

import asyncio
import html
import re
import sys
import threading
import time
from typing import Any

import httpx

from benchmarks.peers.answering import answer_requests

#: As the page's own script has them: between two looks, and between two for what changes only a number.
_LEAST_SECONDS, _CALM_SECONDS, _LOOKS_SHARE = 0.4, 1.5, 0.33
#: Of the six that a browser has for a host, one is the stream.
_CONNECTIONS = 5
_LIVE = re.compile(r'<div id="live"[^>]*>')
_EVENTS = re.compile(r'data-events="([^"]*)"')
_TILES = re.compile(r'<img src="(/v1/jobs/([0-9a-z]+-\d+)/thumbnail[^"]*)"')
_UNFINISHED = re.compile(r'<a id="p-(\d+)"[^>]*>\s*<span class="noimage (?:queued|held|running)"')
_EVENT = re.compile(r"id: (.*)\nevent: (reset|render|worker|backlog|job\.)(.*)\ndata: (.*)\n\n")
_INDEX = re.compile(r'"index": (\d+)')


class OpenPage:
    """A page, until it is cancelled."""

    def __init__(self, client: httpx.AsyncClient, path: str) -> None:
        self._client = client
        self._path = path
        self._changed = asyncio.Event()
        #: The number of the event that calls for the next look, and the shortest pause that one asked for.
        self._called, self._pause = "", _CALM_SECONDS
        self._unfinished: frozenset[str] = frozenset()
        self._connections = asyncio.Semaphore(_CONNECTIONS)
        self._fetched: dict[str, asyncio.Task[None]] = {}
        self.looks = 0
        #: Job → when its small picture was there.
        self.seen: dict[str, float] = {}

    async def stay(self) -> None:
        """Look, follow, and look again when something has changed."""
        text = await self._look()
        followed = _EVENTS.search(text)
        stream = asyncio.create_task(self._follow(html.unescape(followed[1]))) if followed else None
        looked = took = 0.0
        try:
            while True:
                await self._changed.wait()
                while (left := looked + max(self._pause, took / _LOOKS_SHARE) - time.monotonic()) > 0:
                    # What comes meanwhile may be more urgent.
                    await asyncio.sleep(min(left, 0.1))
                self._changed.clear()
                called, self._called, self._pause = self._called, "", _CALM_SECONDS
                began = time.monotonic()
                await self._look(called)
                looked = time.monotonic()
                took = looked - began
        finally:
            for task in (stream, *self._fetched.values()):
                if task is not None:
                    task.cancel()

    async def _look(self, called: str = "") -> str:
        headers = {"Accept": "text/html", "HX-Request": "true", **({"Farm-Event": called} if called else {})}
        answer = await self._client.get(self._path, headers=headers)
        answer.raise_for_status()
        self.looks += 1
        self._unfinished = frozenset(_UNFINISHED.findall(answer.text))
        for address, job in _TILES.findall(answer.text):
            if job not in self._fetched:
                self._fetched[job] = asyncio.create_task(self._fetch(html.unescape(address), job))
        live = _LIVE.search(answer.text)
        return live[0] if live else ""

    async def _fetch(self, address: str, job: str) -> None:
        async with self._connections:
            (await self._client.get(address)).raise_for_status()
        self.seen[job] = time.time()

    async def _follow(self, address: str) -> None:
        async with self._client.stream("GET", address, timeout=None) as answer:
            text = ""
            async for chunk in answer.aiter_text():
                text += chunk
                told, end, text = text.rpartition("\n\n")
                for number, kind, rest, data in _EVENT.findall(told + end):
                    self._called = number
                    self._pause = min(self._pause, self._least(kind, rest, data))
                    self._changed.set()

    def _least(self, kind: str, rest: str, data: str) -> float:
        if kind == "reset" or (kind == "render" and rest):
            return _LEAST_SECONDS
        index = _INDEX.search(data) if kind == "job." else None
        in_sight = self._unfinished if index is None else self._unfinished & {index[1]}
        return _LEAST_SECONDS if in_sight else _CALM_SECONDS


class OpenPages:
    """Pages on an event loop of their own."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=address, timeout=60, limits=limits)
        self._pages: list[tuple[OpenPage, asyncio.Task[None]]] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        done = self._open(request["open"]) if "open" in request else self._close()
        return asyncio.run_coroutine_threadsafe(done, self._loop).result()

    async def _open(self, paths: list[str]) -> dict[str, Any]:
        for path in paths:
            page = OpenPage(self._client, path)
            self._pages.append((page, asyncio.create_task(page.stay())))
        while not all(page.looks or task.done() for page, task in self._pages):
            await asyncio.sleep(0.02)
        return {"open": len(self._pages)}

    async def _close(self) -> dict[str, Any]:
        pages, self._pages = self._pages, []
        for _, task in pages:
            task.cancel()
        ends = await asyncio.gather(*(task for _, task in pages), return_exceptions=True)
        errors = [repr(one) for one in ends if not isinstance(one, asyncio.CancelledError)]
        return {
            "looks": sum(page.looks for page, _ in pages),
            "seen": [page.seen for page, _ in pages],
            "errors": errors,
        }


if __name__ == "__main__":
    answer_requests(OpenPages(sys.argv[1]).answer)
