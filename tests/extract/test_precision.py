"""bfloat16 is computed in where the processor has instructions for it, and refused elsewhere."""

import pytest

from moodfuse.cache.errors import InputError
from moodfuse.extract.networks import hardware
from moodfuse.extract.recipe_files import RecipeChoice, build_recipe


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_instructions_are_looked_up(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is enough; instructions with a name that only begins so are none."""
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx2", flag}))
    assert hardware.has_bfloat16("cpu")
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx2", "avx512f", "bf16_other"}))
    assert not hardware.has_bfloat16("cpu")


def test_a_recipe_asks_for_no_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without instructions it is refused, with what to do; float32, and what is automatic, need none."""
    monkeypatch.setattr(hardware, "_cpu_flags", frozenset)
    with pytest.raises(InputError, match="no instructions for bfloat16 .* use --precision fp32"):
        build_recipe("twodmcnn", RecipeChoice(depth="frozen", device="cpu", precision="bf16"))
    for name in ("fp32", "auto"):
        assert (
            build_recipe("twodmcnn", RecipeChoice(depth="frozen", device="cpu", precision=name)).precision
            == "fp32"
        )
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: frozenset({"avx512_bf16"}))
    found = build_recipe("twodmcnn", RecipeChoice(depth="frozen", device="cpu", precision="bf16"))
    assert found.precision == "bf16"
