"""Addresses that other services have and the farm has not, and what the farm does instead."""

import re
from collections.abc import Sequence

#: Pattern of an address → what to say of it; the first that matches counts.
_INSTEAD: Sequence[tuple[str, str]] = (
    (r"/sdapi/v1/img2img", "pictures are made from text alone; POST /sdapi/v1/txt2img, with ControlNet for an image"),
    (r"/sdapi/v1/extra-(single-image|batch-images)", "pictures are not enlarged; ask for the final size in txt2img"),
    (r"/sdapi/v1/png-info", "a picture's text is in its file (`parameters`); `farm recipe JOB` shows all of it"),
    (r"/sdapi/v1/interrogate", "pictures are not described; the farm makes them from text"),
    (
        r"/sdapi/v1/skip",
        "a single picture is not skipped; POST /sdapi/v1/interrupt ends a call, DELETE /v1/jobs/ID a picture",
    ),
    (
        r"/sdapi/v1/(refresh|unload|reload)-.*",
        "models are those of models.toml, read at the start; workers load them as needed",
    ),
    (r"/sdapi/v1/server-.*", "processes are started and stopped on their machines; see `farm up` and deploy/README.md"),
    (r"/sdapi/v1/(create|train|preprocess)\b.*", "nothing is trained here; register weights in models.toml"),
    (r"/sdapi/v1/memory", "GET /v1/workers tells what devices do, GET /metrics how they are used"),
    (r"/sdapi/v1/cmd-flags", "settings are FARM_* variables; GET /sdapi/v1/options tells those of requests"),
    (r"/sdapi/v1/script-info", "there are no scripts; alwayson_scripts takes controlnet"),
    (r"/controlnet/txt2img", "POST /sdapi/v1/txt2img takes the units in alwayson_scripts"),
    (r"/controlnet/detect", "there are no preprocessors; send the image as the ControlNet takes it"),
    (r"/(internal/(progress|pending-tasks)|queue/.*)", "GET /sdapi/v1/progress tells the progress"),
    (
        r"/(run|api|gradio_api)/.*|/internal/.*|/login/?|/config|/info",
        "the farm has a page of its own, at /, and an API, which GET /docs describes",
    ),
    (r"/v1/images/(edits|variations)", "pictures are made from text alone; POST /v1/images/generations"),
    (
        r"/v1/(chat/)?completions|/v1/responses(/.*)?",
        "no text is written here; POST /v1/images/generations makes pictures",
    ),
    (
        r"/v1/(embeddings|moderations|audio/.*|videos(/.*)?|fine_tuning/.*|uploads(/.*)?|vector_stores.*)",
        "of OpenAI's API there are images, batches, files and models",
    ),
    (r"/v1/(trainings|deployments|collections|hardware|account)(/.*)?", "of Replicate's API there are predictions"),
    (r"/v1/models/[^/]+/[^/]+/.*", "models are those of models.toml, which GET /v1/models lists"),
    (r".*//.*", "the address has two slashes in a row; the base address of a client ends without one"),
    (r"/openai/.*", "of OpenAI's API there is /v1; use its client with base_url, not Azure's"),
    (
        r"/(sdapi|controlnet|adetailer|reactor|roop|sam|tagger|rembg|prompt_gen|agent-scheduler)/.*",
        "the farm does not have it",
    ),
)


def instead(path: str) -> str | None:
    """Return what to say of an address that is not there; None for one that no other service has."""
    return next((words for pattern, words in _INSTEAD if re.fullmatch(pattern, path)), None)
