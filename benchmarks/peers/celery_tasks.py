"""What people write today: a Celery task for each picture. The pipeline is loaded once; a PNG goes to a bucket.

celery --app benchmarks.peers.celery_tasks worker --pool solo
"""

import functools
import io
import os
from typing import Any

import boto3
from celery import Celery

app = Celery("tasks", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_BROKER"])


@functools.cache
def _pipeline() -> Any:
    import torch  # only the worker has it, and loads it once
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(os.environ["PEER_MODEL"], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def _bucket() -> Any:
    return boto3.client("s3", endpoint_url=os.environ["PEER_S3_ENDPOINT"])


@app.task(name="render")  # type: ignore[untyped-decorator]
def render(prompt: str, seed: int, steps: int, guidance: float, key: str) -> str:
    """Render a picture, store it, and return its key."""
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    call = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generator}
    image = _pipeline()(prompt, width=64, height=64, **call).images[0]
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    _bucket().put_object(Bucket=os.environ["PEER_BUCKET"], Key=key, Body=buffer.getvalue(), ContentType="image/png")
    return key
