"""The peers' side of `benchmarks.users.Peer`: requests are lines of standard input, answers of standard output."""

import json
import sys
from collections.abc import Callable
from typing import Any


def answer_requests(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests until there are no more."""
    # Libraries print, too: only answers may go where answers are read.
    output, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=output, flush=True)
