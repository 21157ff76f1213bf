"""How many examples Hypothesis tries: all in a whole run, a fifth where everybody waits (`--few-examples`)."""

from hypothesis import HealthCheck, settings

_FEW = "few"
_SHARE = 5
#: Hypothesis's own number.
_ALL = settings.get_profile("default").max_examples

# How long an example takes says how busy this machine is; the first one reads Unicode's tables.
settings.register_profile("farm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(_FEW, settings.get_profile("farm"), max_examples=_ALL // _SHARE)


def choose(*, few: bool) -> None:
    """Have tests that are collected from now on try few examples, or all."""
    settings.load_profile(_FEW if few else "farm")


def examples(number: int) -> int:
    """Return how many a test that asks for another number than most is to try."""
    return number // _SHARE if settings.get_current_profile_name() == _FEW else number
