"""What a worker's slots do: pictures that are denoised together, each at a step of its own."""

import json
from dataclasses import asdict, dataclass
from typing import Literal

#: Calls for pictures with different LoRAs: one for all, one for each set of LoRAs, or both in turns, to learn which is
#: faster.
LoraCallWay = Literal["together", "apart", "trial"]


@dataclass(frozen=True, kw_only=True)
class SlotCounts:
    """Slots now, and calls of the model since the worker started."""

    #: How many pictures may be denoised together now.
    limit: int
    #: How many are.
    used: int
    #: How many have begun and let more urgent ones go first.
    aside: int
    #: How many were claimed ahead and have not begun.
    ahead: int
    #: Pictures that joined others, and times that one stepped aside.
    joined: int
    stepped_aside: int
    #: Calls of the model, the rows of those that were pictures', and all rows, filled up to fixed shapes.
    ticks: int
    rows_used: int
    rows_computed: int
    #: Calls for pictures with different LoRAs, and those of them in which each set of LoRAs had a call of its own.
    mixed_ticks: int = 0
    apart_ticks: int = 0
    #: How the last of these was made; None: there was none.
    lora_calls: LoraCallWay | None = None

    def written(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | None) -> "SlotCounts | None":
        """Read what `written` wrote."""
        return None if text is None else cls(**json.loads(text))
