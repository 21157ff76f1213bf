"""Which processes took how much of the processor: `python -m tests.tools.processor_seconds COMMAND …`.

Runs a command, such as pytest, and prints the seconds that it and all below it took, exactly, with daemons that have
ended; then, nearly (of what lives shorter than a look takes, nothing is seen), by kind of process and by the test that
started it. It needs a Linux. `PYTHONPATH` must not be set: who finds another one than its fork server is not forked.
"""

import ctypes
import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: Of prctl(2): whoever loses its parent below this process becomes its child, and is counted at its end.
_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 0.15
_SHOWN = 40
#: What makes processes of one kind differ.
_VARYING = re.compile(r"/tmp/\S+|\b[0-9a-f]{8,}\b|\d+")
_OF_TEST = re.compile(rb"PYTEST_CURRENT_TEST=(\S+)")


@dataclass
class Seen:
    """A process: its command line, the test that started it, its seconds when it was looked at last."""

    command: str = ""
    test: str = ""
    looks: int = 0
    seconds: float = 0.0


@dataclass
class Watch:
    """All processes below this one, dead or alive, by their pid and the time at which they started."""

    seen: dict[tuple[int, str], Seen] = field(default_factory=lambda: defaultdict(Seen))

    def look(self) -> None:
        """Note what each has taken until now."""
        fields = dict(_listed())
        children = defaultdict(list)
        for pid, its in fields.items():
            children[int(its[1])].append(pid)
        below = [*children[os.getpid()]]
        for pid in below:
            below += children[pid]
            its = fields[pid]
            one = self.seen[pid, its[19]]
            one.seconds = (int(its[11]) + int(its[12])) / os.sysconf("SC_CLK_TCK")
            # What was forked says only afterwards what it is.
            if one.looks < 3 or one.looks % 20 == 0:
                with suppress(OSError):
                    _introduce(one, Path(f"/proc/{pid}"))
            one.looks += 1

    def tables(self) -> Iterator[tuple[str, dict[str, list[float]]]]:
        """Seconds of each process, by kind and by test."""
        kinds: dict[str, list[float]] = defaultdict(list)
        tests: dict[str, list[float]] = defaultdict(list)
        for one in self.seen.values():
            kinds[_VARYING.sub("#", one.command)].append(one.seconds)
            tests[one.test or "(no test)"].append(one.seconds)
        yield "by kind of process", kinds
        yield "by the test that started them", tests


def _listed() -> Iterator[tuple[int, list[str]]]:
    """Each process with the fields of its `stat` (proc(5)) from the third on."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                yield int(name), Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()


def _introduce(one: Seen, folder: Path) -> None:
    words = (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    one.command = " ".join(words.decode(errors="replace").split())[:120] or one.command
    if found := _OF_TEST.search((folder / "environ").read_bytes()):
        one.test = found[1].decode(errors="replace")


def main(command: Sequence[str]) -> int:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    watch, process = Watch(), subprocess.Popen(command)
    while (code := process.poll()) is None:
        watch.look()
        _reap(but=process.pid)
        time.sleep(_LOOK_SECONDS)
    _reap(but=process.pid)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.1f} s of the processor, {used.ru_stime:.1f} of them in the system")
    for title, table in watch.tables():
        print(f"\n{title}: seconds, processes")
        for name, seconds in sorted(table.items(), key=lambda entry: -sum(entry[1]))[:_SHOWN]:
            print(f"{sum(seconds):8.1f} {len(seconds):5}  {name}")
    return code


def _reap(*, but: int) -> None:
    """Count those that have ended, but leave the command itself to whoever waits for it."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == but:
                return
            os.waitpid(ended.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
