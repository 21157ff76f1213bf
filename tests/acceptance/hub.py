"""A stand-in for the model hub: serves folders as repositories, in the parts of its HTTP interface that loaders use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

#: Of every repository's only commit.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"  # the only one that the stand-in knows


class Hub:
    """Repositories by `owner/name`, each a folder below `root`; those in `gated` want TOKEN."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gated: set[str] = set()
        #: Part of a path: such files are sent by half, and then the server hangs.
        self.hangs: str | None = None
        #: What was asked for: (method, path in its repository).
        self.asked: list[tuple[str, str]] = []
        self.address = ""

    def forget(self) -> None:
        """Be as at first: nothing gated, nothing hangs, nothing was asked for."""
        self.gated, self.hangs, self.asked = set(), None, []

    def served(self) -> list[str]:
        """The files that were fetched, each as often as it was."""
        return [path for method, path in self.asked if method == "GET"]


@contextmanager
def hub(root: Path) -> Iterator[Hub]:
    """Serve the folders of `root` on a free port."""
    found = Hub(root)
    released = threading.Event()
    handler = type("Handler", (_Handler,), {"hub": found, "released": released})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    released: ClassVar[threading.Event]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        repository = f"{owner}/{name}"
        folder = self.hub.root / owner / name
        if repository in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo", f"Access to model {repository} is restricted.")
        elif not folder.is_dir():
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif len(rest) > 1 and rest[1] not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        elif api:
            self._describe(repository, folder, tree=rest[:1] == ["tree"])
        else:
            self._file(folder, "/".join(rest[2:]))

    def _describe(self, repository: str, folder: Path, *, tree: bool) -> None:
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if tree:
            found: object = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _etag(file)}
                for name, file in zip(names, files, strict=True)
            ]
        else:
            siblings = [{"rfilename": name} for name in names]
            found = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _file(self, folder: Path, name: str) -> None:
        file = folder / name
        if not file.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        self.hub.asked.append((self.command, name))
        content = file.read_bytes()
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.command == "GET" and self.hub.hangs and self.hub.hangs in name:
            self._head(200, len(content), headers)
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.released.wait()
            return
        self._send(200, content, headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(content), headers)
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()


def _etag(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
