"""bfloat16 is used where the processor has instructions for it, and refused elsewhere."""

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.networks import hardware
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_a_recipe_asks_for_no_more_than_there_is(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the instructions is enough; without them bfloat16 is refused, and float32 is not."""

    def precision(name: str) -> str:
        return build_recipe("twodmcnn", RecipeChoice(depth="frozen", device="cpu", precision=name)).precision

    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx2", flag}))
    assert hardware.has_bfloat16("cpu") and precision("bf16") == "bf16"
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx2", "avx512f", "bf16_other"}))
    with pytest.raises(InputError, match="no instructions for bfloat16 .* use --precision fp32"):
        precision("bf16")
    assert precision("fp32") == precision("auto") == "fp32"
