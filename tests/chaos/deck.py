"""Every fault that there is, in the order of the files that hold them."""

from tests.chaos import more_faults
from tests.chaos.faults import FAULTS

__all__ = ["FAULTS", "more_faults"]
