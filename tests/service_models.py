"""What boto3 knows of AWS, read once for all clients of a process: that JSON took each longer than most tests."""

from functools import cache

import boto3
import botocore.loaders
import botocore.session

#: Takes the place of the one that each session makes, and empties, for itself.
create_shared_loader = cache(botocore.loaders.create_loader)


def read_for_all() -> None:
    """Have all sessions of this process, and of those that are forked from it, find everything read."""
    botocore.session.create_loader = create_shared_loader
    # Any keys: else it would look for some.
    boto3.Session().client(
        "s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none"
    ).close()
