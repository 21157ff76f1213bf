"""Requests that are generated from the API's own OpenAPI document: of the right form, and not quite."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

Schema = Mapping[str, Any]

#: Instead of a value of the right form.
_NASTY: Sequence[Any] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, -(10**30), 1e308, float("nan"), float("-inf")),
    *(
        "",
        " ",
        "\0",
        "\ud800",
        "\u202e",
        "\x1b[2J",
        "\r\nX-Injected: 1",
        "../../../etc/passwd",
        "'; DROP TABLE jobs;--",
    ),
    *("a" * 10_001, "😀" * 3000, "((((a:1.1):9):9)" * 200, "{a|b}" * 200, "<lora:x:1>" * 100, "file-" + "0" * 24),
    *("http://127.0.0.1:1/", "http://[::1]/", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"),
    *([], {}, [[[[]]]], ["a"] * 500, {"a": {"b": {}}}, {str(n): n for n in range(200)}),
)
#: Of fields whose schema is only "a string", so that some requests get further than their form.
_LIKELY: Mapping[str, Sequence[Any]] = {
    "prompt": ("a red star", "a green circle", ["a", "b", "c"]),
    "model": ("quick", "slow", "nothing"),
    "version": ("quick", "slow"),
    "sampler": ("ddim", "euler", "dpm++ 2m"),
    "sampler_name": ("Euler", "DPM++ 2M"),
    "size": ("64x64", "auto", "1x1", "1024x1024"),
    "cron": ("* * * * *", "0 2 * * *", "0 0 30 2 *", "*/0 * * * *"),
    "timezone": ("UTC", "Europe/Paris", "Mars/Olympus"),
    "at": ("2036-12-01 02:00", "2036-03-30 02:30", "2026-01-01T00:00:00Z", "9999-12-31 23:59+23:59"),
    "not_before": ("2036-12-01 02:00", "2026-01-01 02:00", "0001-01-01 00:00"),
    "prompts_at_firing": ("s3://prompts/a.txt", "s3://", "s3:///etc/passwd"),
    "window": ("01:00-06:00", "25:00-26:00"),
    "endpoint": ("/v1/images/generations",),
    "completion_window": ("24h",),
    "name": ("nightly", "weekly", "a" * 99),
    "prefer": ("wait", "wait=1", "wait=1000000", "respond-async"),
    "url": ("https://example.invalid/hook", "http://127.0.0.1:9/hook"),
    "state": ("done", "queued", "failed"),
    "idempotency-key": ("one", "two", "three"),
    "signature": ("A" * 43, "é", ""),
    "cancel-after": ("1m", "5s", "-1s"),
}
#: Fields that mean something to every model.
_PLAIN = ("prompt", "model", "version", "name", "cron", "timezone", "priority", "n", "endpoint", "input_file_id")
_MANY = 3


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a stranger has learned: ids of their own, and of others, by the name of the parameter that takes them."""

    own: dict[str, list[str]] = field(default_factory=dict)
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def learn(self, name: str, value: str) -> None:
        values = self.own.setdefault(name, [])
        values.append(value)
        del values[:-50]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One request, ready to be sent."""

    method: str
    #: As the document writes it, for reports.
    template: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    #: Whether it asks for what is another's.
    is_for_others: bool

    @property
    def may_wait(self) -> bool:
        """Whether its answer may rightly take long."""
        waits = ("/v1/images/generations", "/sdapi/v1/txt2img")
        made = ("/events", "/pictures.zip", "/grid", "/thumbnail")
        return self.template in waits or self.template.endswith(made) or "prefer" in self.headers


class Documented:
    """Draws requests to every operation of a document, each as often as any other."""

    def __init__(self, document: Schema, rng: Random) -> None:
        self._schemas = document["components"]["schemas"]
        self._rng = rng
        self.operations = [
            (method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        self._deck: list[tuple[str, str, Schema]] = []

    def draw(self, known: Known) -> Generated:
        if not self._deck:
            self._deck = self._rng.sample(self.operations, len(self.operations))
        method, template, operation = self._deck.pop()
        path, is_for_others = template, False
        query: dict[str, str] = {}
        headers: dict[str, str] = {}
        for parameter in operation.get("parameters", ()):
            name, place = parameter["name"], parameter["in"]
            if place == "path":
                value, is_others = self._id(name, known)
                is_for_others |= is_others
                path = path.replace(f"{{{name}}}", value)
            elif self._rng.random() < 0.4:
                (query if place == "query" else headers)[name.lower()] = self._text(name, parameter["schema"])
        if query:
            path += "?" + "&".join(f"{name}={_quoted(value)}" for name, value in query.items())
        content_type, content = self._content(operation.get("requestBody", {}).get("content", {}), known)
        if content_type:
            headers["content-type"] = content_type
        return Generated(
            method=method,
            template=template,
            path=path,
            headers={name: _latin(value) for name, value in headers.items()},
            content=content,
            is_for_others=is_for_others,
        )

    # -- parameters --------------------------------------------------------------------------------------------

    def _id(self, name: str, known: Known) -> tuple[str, bool]:
        luck = self._rng.random()
        if luck < 0.5 and known.own.get(name):
            return self._rng.choice(known.own[name]), False
        if luck < 0.7 and known.others.get(name):
            return self._rng.choice(known.others[name]), True
        return _quoted(str(self._rng.choice(_NASTY)))[:2000] or "-", False

    def _text(self, name: str, schema: Schema) -> str:
        value = self._value(schema, name=name)
        return value if isinstance(value, str) else str(value)

    # -- bodies ------------------------------------------------------------------------------------------------

    def _content(self, forms: Mapping[str, Any], known: Known) -> tuple[str, bytes]:
        if "application/json" in forms:
            body = self._value(forms["application/json"]["schema"])
            if isinstance(body, dict) and "input_file_id" in body and known.own.get("file_id"):
                body["input_file_id"] = self._rng.choice(known.own["file_id"])
            luck = self._rng.random()
            if luck < 0.3 and isinstance(body, dict):
                body = self._plain(body)
            elif luck < 0.7:
                self._spoil(body)
            return self._garbled(json.dumps(body).encode())
        if "multipart/form-data" in forms:
            name = self._rng.choice(("a.png", "a.jsonl", "a.parquet", "a.yaml", "a.safetensors", "../a.csv", "\0"))
            purpose = self._rng.choice(("input", "manifest", "batch", "vision", "fine-tune"))
            file = self._rng.choice((b"", b'{"prompt": "a star"}\n', b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 40))
            return multipart(name, purpose, file)
        if self._rng.random() < 0.1:
            return "application/json", b'{"unasked": 1}'
        return "", b""

    def _plain(self, body: dict[str, Any]) -> dict[str, Any]:
        """Leave out what a simulated model does not do, so that some requests are accepted."""
        plain = {name: value for name, value in body.items() if name in _PLAIN}
        plain |= {name: {"prompt": "a star"} for name in ("input", "render") if name in body}
        return plain | ({"prompt": "a star", "model": "quick"} if "prompt" in body else {})

    def _garbled(self, text: bytes) -> tuple[str, bytes]:
        luck = self._rng.random()
        if luck < 0.04:
            return "application/json", text[: self._rng.randrange(len(text))]
        if luck < 0.06:
            return "application/json", text.replace(b'"', b"\xff")
        if luck < 0.08:
            return self._rng.choice(("text/plain", "application/x-www-form-urlencoded", "\xff")), text
        return "application/json", text

    def _spoil(self, body: Any) -> None:
        """Put something nasty anywhere into a body."""
        while isinstance(body, dict) and body:
            name = self._rng.choice(list(body))
            if isinstance(body[name], dict) and self._rng.random() < 0.7:
                body = body[name]
                continue
            body[name] = self._rng.choice(_NASTY)
            if self._rng.random() < 0.3:
                body[f"un{name}"] = self._rng.choice(_NASTY)
            return

    # -- values ------------------------------------------------------------------------------------------------

    def _value(self, schema: Schema, *, name: str = "") -> Any:
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rsplit("/", 1)[1]], name=name)
        likely = _LIKELY.get(name.lower())
        if likely and self._rng.random() < 0.8:
            return self._rng.choice(likely)
        if "anyOf" in schema:
            return self._value(self._rng.choice(schema["anyOf"]), name=name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        return self._of_type(schema)

    def _of_type(self, schema: Schema) -> Any:
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                inner = schema.get("prefixItems") or [schema.get("items", {})] * self._rng.randint(1, _MANY)
                return [self._value(one) for one in inner]
            case "integer":
                return self._number(schema, 0, 100)
            case "number":
                return self._rng.choice((float(self._number(schema, 0, 100)), 0.5, 1))
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case "string":
                return self._rng.choice(("a star", "quick", "a", "0", "ä 漢字 😀"))
            case _:
                return self._rng.choice((1, 0.5, "a", [1, 2], {"a": 1}))

    def _object(self, schema: Schema) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        found = {
            name: self._value(inner, name=name)
            for name, inner in properties.items()
            if name in required or self._rng.random() < (0.5 if name in _LIKELY else 0.08)
        }
        if not properties and isinstance(schema.get("additionalProperties"), dict | bool):
            inner = schema["additionalProperties"]
            names = self._rng.sample(
                ("prompt", "seed", "steps", "width", "guidance_scale", "x"), self._rng.randint(1, 3)
            )
            return {name: self._value({} if isinstance(inner, bool) else inner, name=name) for name in names}
        return found

    def _number(self, schema: Schema, least: int, most: int) -> int:
        least, most = int(schema.get("minimum", least)), int(schema.get("maximum", most))
        return self._rng.choice((least, most, self._rng.randint(least, min(most, least + 100))))


def multipart(name: str, purpose: str, file: bytes) -> tuple[str, bytes]:
    """Return a form with a file as Content-Type and body."""
    edge = "edge-of-the-form"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--{edge}\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    return f"multipart/form-data; boundary={edge}", head.encode() + file + f"\r\n--{edge}--\r\n".encode()


def _quoted(text: str) -> str:
    """Percent-encode everything that is not a plain letter; half of a surrogate pair as the bytes that it would be."""
    return "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-._~") else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogatepass")
    )


def _latin(value: str) -> str:
    """What a header can carry at all: the client refuses the rest itself."""
    return "".join(letter for letter in value if letter.isprintable() and ord(letter) < 256)[:2000].strip()
