"""Names of downloaded pictures: as the pattern says, and always inside the folder."""

import pytest

from scheduler.results.file_names import FileNames
from storage.errors import InvalidInput
from storage.renders.views import JobView
from storage.rules.states import State
from storage.spec.picture import Spec


def job(prompt: str = "a red star", *, custom_id: str | None = None, index: int = 7) -> JobView:
    numbers = {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 5, "seed": 3}
    spec = Spec.model_validate({"prompt": prompt, "negative_prompt": "", "model": "tiny", "sampler": None, **numbers})
    nothing = dict.fromkeys(
        ("worker", "started_at", "finished_at", "batch_id", "object", "sha256", "bytes", "fault", "error")
    )
    return JobView(
        row_id=1,
        render_id="k7m2p9x4tq8z",
        index=index,
        spec=spec,
        state=State.DONE,
        attempt=1,
        custom_id=custom_id,
        **nothing,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{index:06}-{seed}", "000007-3.png"),
        ("{index:06}-{seed}.png", "000007-3.png"),
        ("{model}/{render}/{index}", "tiny/k7m2p9x4tq8z/7.png"),
        ("{prompt:5}", "a red.png"),
        ("{prompt:5}-{index:3}", "a red-  7.png"),
        ("{custom_id}", "000007.png"),
        ("{{x}}{seed:04}", "{x}0003.png"),
    ],
)
def test_a_pattern_names_each_picture(pattern: str, name: str) -> None:
    assert str(FileNames(pattern)(job())) == name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("../../etc/passwd", "_.._etc_passwd.png"),
        ("..", "_.png"),
        ("/", "_.png"),
        ("C:\\x", "C_x.png"),
        ("line\nend\x7f", "line_end_.png"),
        ("é" * 300, "é" * 90 + ".png"),
        (" . ", "_.png"),
    ],
    ids=["climbs", "above", "root", "drive", "lines", "long", "nothing"],
)
@pytest.mark.parametrize("field", ["custom_id", "prompt"])
def test_no_value_leads_out_of_the_folder(field: str, value: str, name: str) -> None:
    one = job(custom_id=value) if field == "custom_id" else job(value)
    assert str(FileNames(f"{{{field}}}")(one)) == name


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("../{index}", "must stay inside the folder"),
        ("/tmp/{index}", "must stay inside the folder"),
        ("a//{index}", "must stay inside the folder"),
        ("a/../{index}", "must stay inside the folder"),
        ("a\\{index}", "no backslash"),
        ("{index}/", "must stay inside the folder"),
        ("", "must stay inside the folder"),
        ("picture", "without a field"),
        ("{number}", "no field 'number'; the fields are index, seed, custom_id"),
        ("{}", "no field ''"),
        ("{spec.prompt}", "no field 'spec.prompt'"),
        ("{prompt!r}", "{prompt} takes a number, such as {prompt:40}"),
        ("{prompt:>40}", "such as {prompt:40}, forty characters"),
        ("{prompt:00}", "such as {prompt:40}, forty characters"),
        ("{index:00}", "such as {index:06}, six digits"),
        ("{prompt:0}", "such as {prompt:40}, forty characters"),
        ("{index:x}", "such as {index:06}, six digits"),
        ("{index:{seed}}", "such as {index:06}, six digits"),
        ("{index", "expected '}'"),
        ("index}", "Single '}'"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        FileNames(pattern)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"--name {pattern!r}")
