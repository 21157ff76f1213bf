"""What the web UI's API answers: the pictures' gallery metadata, progress, and lists of what there is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from scheduler.api.access import Caller
from scheduler.api.compat.pictures import as_base64, as_png
from scheduler.api.compat.webui_request import TextToImage
from scheduler.api.context import ApiContext
from scheduler.results.outlook import outlook
from storage.errors import BrokerProblem
from storage.renders.views import JobView
from storage.rules.states import State
from storage.spec.capabilities import words_taken
from storage.spec.embedding_words import vectors_of, widths_of
from storage.spec.infotext import infotext, sampler_and_schedule, short_hash
from storage.spec.model_files import public_source
from storage.spec.models import DiffusersModel, Lora, Model
from storage.spec.picture import Spec
from storage.spec.registry import Registry
from storage.spec.sampler_names import SAMPLERS
from storage.spec.webui_prompts import without_comments

#: Of pictures on devices, how many are looked at for one that has a preview.
_LOOKED_AT = 16


def info(context: ApiContext, body: TextToImage, first: Spec, jobs: Sequence[JobView]) -> dict[str, Any]:
    """Return what the web UI tells of pictures, all done: the prompts as they were sent, without comments, seeds,
    infotexts.

    Args:
        first: the specification of the first that was asked for, whether it was made or not.
    """
    prompt, negative = without_comments(body.prompt), without_comments(body.negative_prompt)
    seeds = [job.spec.seed for job in jobs]
    batches = context.views.batches(str(job.batch_id) for job in jobs)
    recipes = [batches[job.batch_id].recipe_with(job.own_recipe) if job.batch_id in batches else {} for job in jobs]
    recipe = next(iter(recipes), {})
    sampler, schedule = sampler_and_schedule(first.sampler, recipe)
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * len(jobs),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(jobs),
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(jobs),
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": SAMPLERS[first.sampler] if first.sampler else sampler,
        "extra_generation_params": {} if schedule is None else {"Schedule type": schedule},
        "cfg_scale": first.guidance_scale,
        "steps": first.num_inference_steps,
        "batch_size": body.batch_size,
        "sd_model_name": first.model,
        "sd_model_hash": short_hash(recipe.get("sha256")),
        "sd_vae_name": recipe.get("vae_source"),
        "sd_vae_hash": short_hash(recipe.get("vae_sha256")),
        "index_of_first_image": 0,
        "infotexts": [infotext(job.spec, recipe) for job, recipe in zip(jobs, recipes, strict=True)],
        "styles": [],
        "job_timestamp": datetime.now(UTC).strftime("%Y%m%d%H%M%S"),
        "clip_skip": (first.clip_skip or 0) + 1,
    }


def progress(context: ApiContext, caller: Caller, *, with_preview: bool) -> dict[str, Any]:
    """Return the progress of the caller's oldest render of this door that is waited for."""
    share, left, job, total, steps = 0.0, 0.0, "", 0, 0
    image = why_none = None
    for render_id in context.waits.of(caller.owner)[:1]:
        render = context.views.render(render_id)
        running = context.views.progress(render.id)
        share = (render.total - render.remaining + sum(running.values())) / render.total
        left = outlook(context.services, render)["seconds_left"] or 0.0
        job, total = render.id, render.total
        steps = next(context.views.jobs(render.id, limit=1)).spec.num_inference_steps
        if with_preview and not render.finished:
            image, why_none = _preview(context, render.id)
    done = int(share * total)
    return {
        "progress": round(share, 4),
        "eta_relative": left,
        "state": {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": job,
            "job_count": total,
            "job_timestamp": "",
            "job_no": done,
            "sampling_step": int((share * total - done) * steps),
            "sampling_steps": steps,
        },
        "current_image": image,
        "textinfo": why_none,
    }


def _preview(context: ApiContext, render_id: str) -> tuple[str | None, str | None]:
    """Return a preview of a render's first picture that is being denoised, base64, or why it never has one."""
    if context.previews is None:
        return None, "no previews: this API was started without a broker, through which they come"
    try:
        context.previews.watch([render_id])
        running = {job.id: job.attempt for job in context.views.jobs(render_id, state=State.RUNNING, limit=_LOOKED_AT)}
        found = context.previews.get(running)
    except BrokerProblem as error:
        return None, f"no previews: {error}"
    for job, attempt in running.items():
        preview = found.get(job)
        if preview is None or preview.attempt != attempt:
            continue
        if preview.why_none is not None:
            return None, f"no previews: {preview.why_none}"
        return as_base64(as_png(preview.image)), None
    return None, None


def checkpoint(model: Model) -> dict[str, Any]:
    """Return a model in the web UI's form."""
    return {
        "title": model.alias,
        "model_name": model.alias,
        "hash": None,
        "sha256": None,
        "filename": public_source(model) if isinstance(model, DiffusersModel) else model.kind,
        "config": None,
    }


def lora(one: Lora) -> dict[str, Any]:
    """Return a LoRA in the web UI's form."""
    return {"name": one.alias, "alias": one.alias, "path": public_source(one), "metadata": {}}


def embeddings(registry: Registry, checkpoint_alias: str) -> dict[str, dict[str, Any]]:
    """Return the textual inversions in the web UI's form: those that a checkpoint reads, and those that it does not.

    Of one whose file is not on this machine, width and number of vectors are 0, and its worker knows.
    """
    model = registry.models.get(checkpoint_alias)
    mine = () if model is None else words_taken(model, registry.embeddings)
    widths = widths_of(model) if isinstance(model, DiffusersModel) else None
    found: dict[str, dict[str, Any]] = {"loaded": {}, "skipped": {}}
    for alias, one in registry.embeddings.items():
        held = vectors_of(one)
        fits = alias in mine and (held is None or widths in (None, held.widths))
        found["loaded" if fits else "skipped"][alias] = {
            "step": None,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
            "shape": sum(held.widths) if held else 0,
            "vectors": held.number if held else 0,
        }
    return found
