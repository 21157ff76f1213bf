"""A process in which packages are missing, as in an install of the client."""

#: What the extras bring.
EXTRAS = (
    *("alembic", "boto3", "botocore", "celery", "click", "cronsim", "dynamicprompts", "fastapi", "kombu", "numpy"),
    *("PIL", "psycopg", "pyarrow", "pydantic", "redis", "rich", "safetensors", "sqlalchemy"),
    "torch",
)
#: What the client does not even look at.
PARTS_OF_A_FARM = ("scheduler", "storage", "worker")

_MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing())
"""


def without(packages: tuple[str, ...], program: str) -> str:
    """Return a program that cannot import these packages."""
    return _MISSING.replace("{packages}", repr(packages)) + program
