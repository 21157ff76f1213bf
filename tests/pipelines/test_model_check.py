"""`farm models check` finds what holds of a model, and what does not."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from storage.errors import BadSpecification, ModelUnavailable
from storage.settings import Settings
from storage.spec import profiles
from storage.spec.model_checks import CheckFinding, ModelCheck, ModelChecks, write_check
from storage.spec.models import DiffusersModel
from storage.spec.picture import Request
from tests.model_checks import a_check
from tests.pipelines.conftest import Models
from tests.pipelines.tried import Tried
from worker.checks import measures, proofs
from worker.checks.drawing import Drawer, Pictures
from worker.checks.run import CHECKS, ModelCheckRun, Teller
from worker.devices import Device
from worker.rendering.backend import Backend, BackendResources, LoadedModel
from worker.rendering.open_backend import open_backend

CPU = Device("cpu", 0)
Checker = Callable[..., tuple[ModelCheck, dict[str, CheckFinding]]]


@pytest.fixture
def check(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    def checked(
        alias: str, *, is_shared: bool = False, most: int = 8, **entry: Any
    ) -> tuple[ModelCheck, dict[str, CheckFinding]]:
        # Looking beyond eight pictures in a call, as far as 64, is half of a check's time: one test does.
        monkeypatch.setattr(measures, "_MOST", most)
        model = models.registry[alias].model_copy(update=entry)
        assert isinstance(model, DiffusersModel)
        registry = type(models.registry)(models={alias: model}, default=alias, loras=models.registry.loras)
        told = io.StringIO()
        run = ModelCheckRun(Settings(home=tmp_path), registry, model, device=CPU, tell=Teller(told))
        if alias == "kandinsky":
            # Else its prior takes 25 steps before the three of its decoder.
            run._pictures._beside["prior_num_inference_steps"] = 2

        def opened(resources: BackendResources) -> Backend:
            return open_backend("diffusers", CPU, resources)

        found = run.all(opened, lambda hardware: f"{hardware}, threads: 1", is_shared=is_shared)
        events = [json.loads(line)["event"] for line in told.getvalue().splitlines()]
        assert [event["found"] for event in events if "found" in event] == [
            one.model_dump(mode="json") for one in found.findings
        ]
        assert [one.check for one in found.findings] == list(CHECKS)
        return found, {one.check: one for one in found.findings}

    return checked


@contextmanager
def called_by(change: Callable[[Any, Any], Any]) -> Iterator[None]:
    """UNets whose input, and what they make of it, goes through this."""
    before = UNet2DConditionModel.forward

    def forward(self: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        made = before(self, sample, *args, **kwargs)
        first, *others = made if isinstance(made, tuple) else (made.sample,)
        changed = change(sample, first)
        return (changed, *others) if isinstance(made, tuple) else type(made)(sample=changed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "forward", forward)
        yield


@pytest.mark.parametrize(("alias", "multiple"), [("sd", 8), ("sdxl-control", 8), ("kandinsky", 64)])
def test_what_is_promised_of_every_picture_holds(check: Checker, alias: str, multiple: int) -> None:
    beside = alias == "sdxl-control"
    found, by_name = check(alias, is_shared=beside, most=64 if alias == "sd" else 8)
    assert found.held, found.findings
    assert {name for name, one in by_name.items() if one.held} == set(CHECKS) - {"memory", "pace", "precision"}
    assert (found.multiple, found.remarks, found.device_name[-10:]) == (multiple, (), "threads: 1")
    assert "not applicable" in by_name["precision"].words
    assert [size["width"] for size in by_name["memory"].figures] == ([32, 64, 128] if multiple == 8 else [64, 64, 128])
    paces = {figure["pictures"]: figure["seconds_per_step"] for figure in by_name["pace"].figures}
    assert set(paces) >= {1, 2, 4, 8}
    assert all(seconds for seconds in paces.values())
    # Beside a worker no limit is made of what is measured.
    assert found.pictures in ([None] if beside else paces)
    assert ("beside a worker" in by_name["pace"].words) == beside
    assert ("slots" in by_name["loading"].words) == (alias != "kandinsky")
    if alias == "kandinsky":
        assert "is rounded to" in by_name["sizes"].words


def test_a_model_whose_rows_look_at_each_other_is_found_out_and_said_to_whoever_submits(
    check: Checker, models: Models, tmp_path: Path
) -> None:
    with called_by(lambda _, made: made + 3 * made.mean(dim=0, keepdim=True)):
        found, by_name = check("sd")
    assert "batch by batch" in by_name["loading"].words
    assert (by_name["batch"].held, by_name["strangers"].held, found.held) == (False, False, False)
    assert found.remarks == (proofs.ON_NEIGHBOURS,)

    write_check(tmp_path / "models.checks.json", "sd", found)
    checks = ModelChecks(tmp_path / "models.checks.json")
    [remark] = checks.remarks(models.registry["sd"])
    assert proofs.ON_NEIGHBOURS in remark
    assert found.device_name in remark
    # Another entry of that name is another model.
    assert checks.remarks(models.registry["sd"].model_copy(update={"variant": "fp16"})) == []


@pytest.fixture
def no_table_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the farm had never heard that a pipeline rounds."""
    without = {name: profile.model_copy(update={"multiple": 8}) for name, profile in profiles._profiles().items()}
    monkeypatch.setattr(profiles, "_profiles", lambda: without)


@pytest.mark.usefixtures("no_table_of_sizes")
def test_sizes_that_a_model_rounds_are_refused_once_that_was_found(
    models: Models, loaded: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    model = models.registry["kandinsky"]
    assert isinstance(model, DiffusersModel)
    pictures = Pictures(models.registry, model, "", CPU)
    finding, multiple = proofs.size_multiples(Drawer(loaded("kandinsky"), lambda: None), pictures)
    assert (finding.held, multiple) == (False, 64)
    assert "where the farm took 8 until now" in finding.words

    asked = {"prompt": "x", "model": "kandinsky"}
    narrow = Request.parse(asked | {"width": 96, "height": 64})
    models.registry.resolve(narrow, seed=0)
    write_check(tmp_path / "models.checks.json", "kandinsky", a_check(model, multiple=multiple))
    registry = models.registry.with_checks(ModelChecks(tmp_path / "models.checks.json"))
    with pytest.raises(BadSpecification, match="multiple of 64 .* `farm models check` found, such as 64 or 128"):
        registry.resolve(narrow, seed=0)
    wide = registry.resolve(Request.parse(asked | {"aspect": "3:1"}), seed=0)
    assert (wide.width % 64, wide.height % 64) == (0, 0)


def _no_more_than(values: int) -> Callable[[Any, Any], Any]:
    def change(sample: Any, made: Any) -> Any:
        if sample.shape[0] * sample.shape[2] * sample.shape[3] > values:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    return change


def test_a_model_that_is_told_its_guidance_is_not_blamed_for_reading_no_negative_prompt(tmp_path: Path) -> None:
    tried = Tried("sd-lcm", tmp_path / "sd-lcm", 'negative_prompt = "blurry"')
    model = tried.registry["m"]
    assert isinstance(model, DiffusersModel)
    pictures = Pictures(tried.registry, model, "", CPU)
    found = proofs.prompt_list(Drawer(tried.model, lambda: None), pictures)
    assert found.held, found.words
    assert found.words.endswith("unguided, it reads no negative prompt")


def test_where_memory_runs_out_is_said_and_what_fits_is_checked(check: Checker) -> None:
    # Two guided pictures of 64 × 64 pixels, or hardly one of any larger size.
    with called_by(_no_more_than(4 * 8 * 8)):
        found, by_name = check("sd")
    assert found.held
    assert "2 pictures is the same alone" in by_name["batch"].words
    assert by_name["pace"].words.endswith("4 do not fit")
    assert found.pictures in (1, 2)
    assert "128×128: out of memory" in by_name["memory"].words


def test_a_size_that_does_not_fit_is_said_and_half_of_it_is_checked(check: Checker) -> None:
    with called_by(_no_more_than(2 * 8 * 8)):
        found, by_name = check("sd", width=128, height=128)
    assert (found.width, found.height) == (64, 64)
    assert by_name["loading"].held is False
    assert "128×128 does not fit: checked at 64×64" in by_name["loading"].words
    assert by_name["batch"].held is None
    assert found.pictures == 1
    with called_by(_no_more_than(0)), pytest.raises(ModelUnavailable, match="not even 64×64 fits"):
        check("sd")


def test_half_precision_is_compared_with_single(check: Checker) -> None:
    found, by_name = check("sd", dtype="bfloat16")
    assert found.dtype == "bfloat16"
    assert by_name["precision"].held
    assert all((one["psnr_db"] or 99) > 10 for one in by_name["precision"].figures)
    assert len(by_name["precision"].figures) == 2
