#!/usr/bin/env bash
# kombu replaces its own module while it is imported, and the new one has no `__spec__`. So `importlib.util.find_spec`,
# the usual way to ask whether a package is installed, answers before the import and raises after it: a check that works
# in a fresh process fails in one that has talked to the broker, and in each that is forked from it (Celery's workers).
# Celery, which does the same trick with its module, keeps the specification.
#
# Seen with kombu 5.7.0 and Celery 5.7.0 on CPython 3.11
#   before: found
#   kombu after: ValueError: kombu.__spec__ is None
#   celery after: found
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "kombu==5.7.0" "celery==5.7.0" 2>/dev/null
said=$("$folder/venv/bin/python" - <<'PY'
from importlib.util import find_spec


def asked(name):
    try:
        return "found" if find_spec(name) else "not found"
    except ValueError as error:
        return f"ValueError: {error}"


print("before:", asked("kombu"))
import celery, kombu  # noqa: E401, E402, F401
print("kombu after:", asked("kombu"))
print("celery after:", asked("celery"))
PY
)
echo "$said"
[ "$said" = "before: found
kombu after: ValueError: kombu.__spec__ is None
celery after: found" ]
