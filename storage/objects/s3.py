"""The object store in a bucket, through boto3: every bucket call is here.

What each method promises is in `storage.objects.store.ObjectStore`.
"""

import contextlib
import hashlib
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointProviderError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)

from storage.errors import NotFound, ObjectStoreOverwrites, ObjectStoreProblem, ObjectStoreRefused
from storage.objects.object_keys import Stored, checked, described
from storage.settings import without_secrets

_CONTENT_TYPES = {".png": "image/png", ".webp": "image/webp"}
#: Half of a client's connections.
_DELETED_AT_ONCE = 8
#: Keys of one answer to a list.
_PAGE = 1000


class S3Objects:
    """A bucket of any S3-compatible store that honours `If-None-Match: *`."""

    def __init__(self, *, bucket: str, prefix: str, endpoint_url: str | None, named: str = "FARM_OBJECTS_URL") -> None:
        """Prepare a client, without contacting anything; `named`: what to correct if the bucket does not exist."""
        self._bucket = bucket
        self._named = named
        self._prefix = f"{prefix}/" if prefix else ""
        self.shown = f"s3://{bucket}/{self._prefix}" + (f" at {without_secrets(endpoint_url)}" if endpoint_url else "")
        try:
            # A session of its own: boto3's shared one is not for several threads, and keeps the first keys it saw.
            self._client: Any = boto3.Session().client(
                "s3",
                endpoint_url=endpoint_url,
                config=Config(
                    signature_version="s3v4",
                    connect_timeout=3,
                    read_timeout=20,
                    retries={"mode": "standard", "total_max_attempts": 4},
                    tcp_keepalive=True,
                    max_pool_connections=16,
                    # Stores other than AWS often know no checksum trailers; `put` sends its own SHA-256.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path" if endpoint_url else "auto"},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise ObjectStoreRefused(f"objects in {self.shown}: {error}; check the AWS_ settings") from error

    def put(self, key: str, data: bytes | IO[bytes]) -> Stored:
        source, stored = described(key, data)
        with self._translated():
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._name(key),
                    Body=source,
                    ContentType=_CONTENT_TYPES.get(Path(key).suffix, "application/octet-stream"),
                    ChecksumSHA256=b64encode(bytes.fromhex(stored.sha256)).decode(),
                    Metadata={"sha256": stored.sha256},
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if _status(error) == 501:
                    raise ObjectStoreOverwrites(
                        f"objects in {self.shown}: the store knows no conditional writes (`If-None-Match: *`: "
                        f"{error.response.get('Error', {}).get('Code', 'not implemented')}); use a store, or a version "
                        "of it, that honours them (deploy/README.md lists some)"
                    ) from error
                # 412: the key exists. 409: another writer is creating it right now (CoreWeave answers 409 for both).
                if _status(error) not in (409, 412):
                    raise
                return self._adopt(key)
        return stored

    def _adopt(self, key: str) -> Stored:
        """Describe the object that exists already, perhaps from our own first try whose answer was lost."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except ClientError as error:
            if _status(error) != 404:
                raise
            raise ObjectStoreProblem(f"object {key} in {self.shown}: another write of it failed; try again") from error
        # Some stores write the names of metadata with a capital.
        sha256 = {name.lower(): value for name, value in head["Metadata"].items()}.get("sha256")
        if sha256 is None:
            sha256 = hashlib.sha256(self.get(key)).hexdigest()
        return Stored(key=key, sha256=sha256, bytes=head["ContentLength"])

    def get(self, key: str) -> bytes:
        with self._translated():
            try:
                body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._name(key))["Body"].read()
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    raise NotFound(f"no object {key} in {self.shown}") from None
                raise
        return body

    def upload(self, key: str, file: Path) -> None:
        """Store a file, streamed, replacing what is there; no reader sees a part of it."""
        with self._translated():
            try:
                self._client.upload_file(str(file), self._bucket, self._name(key))
            except S3UploadFailedError as error:
                # boto3 wraps the store's error.
                raise (error.__cause__ or error.__context__ or error) from error

    def copy(self, key: str, file: IO[bytes]) -> None:
        # Here the key may be anybody's.
        with self._translated():
            try:
                self._client.download_fileobj(self._bucket, self._prefix + key, file)
            except ClientError as error:
                if _status(error) != 404:
                    raise
                self.check()  # a missing bucket answers the same
                raise NotFound(f"no object {key} in {self.shown}") from None

    def link(self, key: str, to: Path) -> bool:  # noqa: ARG002 - objects of a bucket are no files
        return False

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes; None if it does not exist."""
        with self._translated():
            try:
                return int(self._client.head_object(Bucket=self._bucket, Key=self._name(key))["ContentLength"])
            except ClientError as error:
                if _status(error) != 404:
                    raise
                self.check()  # a missing bucket answers the same
                return None

    def presign(self, key: str, *, seconds: int = 900) -> str:
        address: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": self._name(key)}, ExpiresIn=seconds
        )
        return address

    def delete(self, key: str) -> None:
        with self._translated():
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def delete_below(self, folder: str) -> None:
        # One by one: many stores other than AWS refuse the checksum that deleting many at once comes with.
        keys = self.list(f"{checked(folder)}/")
        with ThreadPoolExecutor(_DELETED_AT_ONCE, thread_name_prefix="delete") as threads:
            while some := [*islice(keys, _PAGE)]:
                list(threads.map(self.delete, some))

    def remove_unfinished(self, *, seconds: float) -> int:  # noqa: ARG002 - one request stores an object whole
        return 0

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self._prefix)

    def check(self) -> None:
        with self._translated():
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "error")
            if code in ("NoSuchBucket", "NotFound") or _status(error) == 404:
                raise ObjectStoreRefused(
                    f"objects in {self.shown}: the bucket does not exist; create it or correct {self._named}"
                ) from error
            if _status(error) in (401, 403):
                raise ObjectStoreRefused(
                    f"objects in {self.shown}: access is denied ({code}); "
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
                ) from error
            raise ObjectStoreProblem(f"objects in {self.shown}: {code}") from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ObjectStoreRefused(
                f"objects in {self.shown}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (ParamValidationError, EndpointProviderError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ObjectStoreRefused(f"objects in {self.shown}: no such address: {reason}") from error
        except BotoCoreError as error:
            raise ObjectStoreProblem(f"objects in {self.shown}: {error}") from error


def _status(error: ClientError) -> int:
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status
