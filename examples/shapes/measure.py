"""Measures how well the model `shapes` does what it is told; the figures of its model card.

python -m examples.shapes.measure worker/models/shapes --controlnet worker/models/shapes-silhouette --plot guidance.svg
"""

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compel import Compel
from diffusers import AutoPipelineForText2Image, ControlNetModel
from PIL import Image

from examples.shapes.drawings import SHAPES, drawing, silhouettes
from examples.shapes.judge import Verdict, colour_shares, judge, overlap, shape_mask
from examples.shapes.prompts import Wish, wish, words

STEPS, GUIDANCE = 20, 5.0
FEATURES = ("background", "colour", "shape", "size", "position")
#: What "all at once" means: what the prompt says of these.
TOGETHER = ("background", "colour", "shape", "position")
_BATCH = 50


def wishes(n: int, *, seed: int) -> Iterator[tuple[Wish, str]]:
    """Prompts drawn afresh from the grammar that name background, colour and shape, and perhaps size and position."""
    rng = random.Random(seed)
    while n:
        asked = wish(drawing(rng), rng)
        if asked.background and asked.colour and asked.shape and not asked.second:
            yield asked, words(asked, rng)
            n -= 1


def render(
    pipeline: Any, prompts: Sequence[str], *, images: Sequence[Image.Image] = (), **options: Any
) -> list[Image.Image]:
    """One picture a prompt; the n-th has seed n."""
    made: list[Image.Image] = []
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE} | options
    for start in range(0, len(prompts), _BATCH):
        some = list(prompts[start : start + _BATCH])
        generators = [torch.Generator().manual_seed(start + n) for n in range(len(some))]
        shown = {"image": list(images[start : start + _BATCH])} if images else {}
        made += pipeline(prompt=some, generator=generators, **shown, **options).images
    return made


def fulfilled(asked: Wish, seen: Verdict) -> dict[str, bool]:
    """For each feature that was asked for, whether it is there."""
    return {name: getattr(seen, name) == getattr(asked, name) for name in FEATURES if getattr(asked, name)}


def adherence(pipeline: Any, n: int, *, seed: int = 0, **options: Any) -> dict[str, float]:
    """Share of pictures that show each feature asked for, each value of a feature asked for, and all at once."""
    asked = list(wishes(n, seed=seed))
    pictures = render(pipeline, [prompt for _, prompt in asked], **options)
    found: dict[str, list[bool]] = defaultdict(list)
    for (wanted, _), picture in zip(asked, pictures, strict=True):
        met = fulfilled(wanted, judge(picture))
        for name, good in met.items():
            found[name].append(good)
            found[f"{name}: {getattr(wanted, name)}"].append(good)
        found["all"].append(all(met.get(name, True) for name in TOGETHER))
    return {name: sum(good) / len(good) for name, good in sorted(found.items())}


def red_with_and_without(pipeline: Any, n: int) -> tuple[float, float]:
    """How often a shape of no named colour is red, without and with `red` as the negative prompt."""
    prompts = [f"a large {SHAPES[i % len(SHAPES)]} on a white background" for i in range(n)]
    shares = []
    for negative in ("", "red"):
        pictures = render(pipeline, prompts, negative_prompt=[negative] * min(n, _BATCH))
        shares.append(sum(judge(picture).colour == "red" for picture in pictures) / n)
    return shares[0], shares[1]


def red_by_weight(pipeline: Any, n: int, weights: Sequence[tuple[float, float]]) -> list[float]:
    """Share of red among the red and blue pixels of "a (red)w and (blue)v shape", by Compel's weights."""
    compel = Compel(tokenizer=pipeline.tokenizer, text_encoder=pipeline.text_encoder)
    shares = []
    for red, blue in weights:
        states = compel(f"a large (red){red} and (blue){blue} square on a white background")
        none = compel("")
        pictures = pipeline(
            prompt_embeds=states.expand(n, -1, -1),
            negative_prompt_embeds=none.expand(n, -1, -1),
            generator=[torch.Generator().manual_seed(seed) for seed in range(n)],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
        ).images
        counts = [colour_shares(picture) for picture in pictures]
        reds, blues = (sum(count[name] for count in counts) for name in ("red", "blue"))
        shares.append(reds / max(1, reds + blues))
    return shares


def followed(pipeline: Any, controlnet: Any, n: int) -> tuple[float, float]:
    """Mean overlap of drawn shapes with given silhouettes, and the share of right colours."""
    rng = random.Random(7)
    drawings = [drawing(rng) for _ in range(n)]
    masks = silhouettes(drawings).numpy()
    shown = [Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB") for mask in masks]
    prompts = [f"a {d.colour} shape on a {d.background} background" for d in drawings]
    guided = AutoPipelineForText2Image.from_pipe(pipeline, controlnet=controlnet)
    guided.set_progress_bar_config(disable=True)
    pictures = render(guided, prompts, images=shown)
    overlaps = [overlap(shape_mask(picture), mask > 0.5) for picture, mask in zip(pictures, masks, strict=True)]
    right = [judge(picture).colour == d.colour for picture, d in zip(pictures, drawings, strict=True)]
    return sum(overlaps) / n, sum(right) / n


def seconds(pipeline: Any, batch: int) -> float:
    """The best of five calls."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        pipeline(prompt=["a red star"] * batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
        taken.append(time.perf_counter() - started)
    return min(taken)


def plot(by_guidance: dict[float, dict[str, float]], file: Path) -> None:
    """Adherence against guidance. Needs matplotlib (the extra `shapes`)."""
    from matplotlib.figure import Figure  # only those who plot have it

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for name in (*TOGETHER, "all"):
        shares = [100 * found[name] for found in by_guidance.values()]
        axes.plot(list(by_guidance), shares, marker="o", label="all four" if name == "all" else name)
    axes.set(xlabel="guidance scale", ylabel="pictures as asked, %", ylim=(70, 101))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--controlnet", type=Path)
    parser.add_argument("-n", type=int, default=500, help="prompts for each guidance scale")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 3, 5, 8])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw adherence against guidance")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    asked = parser.parse_args()
    pipeline = AutoPipelineForText2Image.from_pretrained(asked.folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    by_guidance = {
        guidance: adherence(pipeline, asked.n, seed=asked.seed, guidance_scale=guidance) for guidance in asked.guidance
    }
    if asked.plot:
        plot(by_guidance, asked.plot)
    figures: dict[str, Any] = {f"guidance {guidance:g}": found for guidance, found in by_guidance.items()}
    figures["red without and with negative red"] = red_with_and_without(pipeline, 200)
    weights = [(0.5, 1.5), (0.75, 1.25), (1.0, 1.0), (1.25, 0.75), (1.5, 0.5)]
    figures["share of red by weights"] = dict(zip(map(str, weights), red_by_weight(pipeline, 40, weights), strict=True))
    if asked.controlnet:
        controlnet = ControlNetModel.from_pretrained(asked.controlnet, dtype=torch.float32)
        figures["controlnet overlap, colour"] = followed(pipeline, controlnet, 200)
    figures["seconds for 1, 8"] = (seconds(pipeline, 1), seconds(pipeline, 8))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
