"""Option types for amounts with a unit: 12h, 30d, 500MB."""

import re

import click

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Duration(click.ParamType[float]):
    """A time span, converted to seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d{1,6})([smhdw])", str(value).strip().lower())
        if match is None:
            self.fail("expected a number and a unit (s, m, h, d, w), such as 12h or 30d", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


class Size(click.ParamType[int]):
    """A size, converted to bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(value).strip().lower())
        if match is None or float(match[1]) == 0:
            self.fail("expected a size such as 500MB or 1GB", param, ctx)
        return int(float(match[1]) * _BYTES[match[2]])
