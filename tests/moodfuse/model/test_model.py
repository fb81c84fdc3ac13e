"""Models: they predict what their run scored, in any order and anywhere."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.errors import InputError
from moodfuse.cache.runs import Run
from moodfuse.evaluate.evaluation import run_labels
from moodfuse.export import find_result
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import SHORT_SIDE_PX, make_media, read_clip
from moodfuse.fuse.fitting import fit_temperature
from moodfuse.fuse.inference import apply_temperature
from moodfuse.model.folder import ModelError
from moodfuse.model.model import Model
from moodfuse.model.predictions import LabelRequest
from moodfuse.synthetic_corpus import make_clip

BOTH = "onedmcnn@brief+twodmcnn@brief"
QUICK, TREES = f"{BOTH} softmax logits", f"{BOTH} lightgbm embedding"
Models = Callable[..., Path]


def scored(run: Run, name: str, files: tuple[str, ...]) -> np.ndarray:
    """Rows of a run's result for some files."""
    rows = [next(row for row, clip in enumerate(run.ids) if file.endswith(clip)) for file in files]
    return np.asarray(find_result(run.results, name).probabilities[rows])


@pytest.mark.parametrize("name", [QUICK, TREES, "twodmcnn@brief network logits"])
def test_a_model_predicts_unseen_files_as_its_run_did(name: str, trained: Any, models: Models) -> None:
    """Exported without one fold's clips, it predicts their files as the run of all folds scored them.

    Its temperature is corrected by the out-of-fold probabilities of the other folds.
    """
    model = Model.load(models(name))
    probabilities = model.predict_proba(trained.held)
    out_of_fold = find_result(trained.fewer.results, name).probabilities
    correction = fit_temperature(out_of_fold, run_labels(trained.fewer)) if model.card.chosen else 1.0
    expected = apply_temperature(scored(trained.run, name, trained.held), correction)
    assert np.allclose(probabilities, expected, rtol=0, atol=1e-5)


def test_a_training_clip_has_the_features_of_the_cache(trained: Any, models: Models) -> None:
    """Embedding and logits are bit for bit those of the cache, for a frozen network and a fine-tuned head."""
    model, status = Model.load(models(QUICK)), trained.cache.clips[0]
    media = make_media(read_clip(status.clip.path, short_side_px=SHORT_SIDE_PX))
    for shipped in model._sources:
        recipe = trained.cache.recipe(shipped.recipe.source)
        for number, rows in enumerate(shipped.embed(media)):
            block = trained.cache.block(recipe.source, {number} if recipe.sees_labels else "*")
            assert block.ids[0] == status.clip.id
            assert np.array_equal(rows["embedding"], block.embedding[0])
            assert block.logits is None or np.array_equal(rows["logits"], block.logits[0])


def test_order_jobs_and_threads_do_not_change_a_bit(trained: Any, models: Models) -> None:
    """Files alone in several threads, and together in two decoding processes, give the same bits."""
    model, files = Model.load(models(TREES)), list(trained.held)
    together = model.predict_proba(files[::-1], jobs=2)[::-1]
    with ThreadPoolExecutor() as pool:
        alone = list(pool.map(lambda file: model.label_file(file), files))
    assert np.array_equal([prediction.probabilities for prediction in alone], together)
    assert [prediction.label for prediction in alone] == [model.classes[row] for row in together.argmax(1)]


def test_a_moved_model_needs_neither_a_cache_nor_the_libraries_that_fit(
    trained: Any, models: Models, tmp_path: Path
) -> None:
    """In a new process and another folder predictions are the same, without LightGBM and scikit-learn."""
    expected = Model.load(models(TREES)).predict_proba(trained.held[:1])
    moved = Path(shutil.copytree(models(TREES), tmp_path / "elsewhere" / "model"))
    script = (
        "import sys\nfrom moodfuse import Model\n"
        "if __name__ == '__main__':\n"
        "    print(Model.load(sys.argv[1]).predict_proba(sys.argv[2:]).tobytes().hex())\n"
        "    print(*sorted({'lightgbm', 'sklearn'} & set(sys.modules)))\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(moved), trained.held[0]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [expected.tobytes().hex()]


def test_a_file_without_a_modality_is_refused_or_imputed(
    trained: Any, models: Models, tmp_path: Path
) -> None:
    """A file without the modality of a source is refused or imputed; other modalities may be missing."""
    silent = make_clip(tmp_path / "silent.mp4", audio=False)
    heard = make_clip(tmp_path / "no-video.mp4", video=False)
    model = Model.load(models(QUICK))
    prediction, refused = model.label(LabelRequest(str(file)) for file in (heard, silent))
    assert prediction.missing == ""
    assert refused.code == "no_audio" and refused.cause == "the file has no audio track"
    with pytest.raises(MediaError, match="the file has no audio track"):
        model.timeline(silent)
    model = Model.load(models(QUICK, impute=True))
    imputed = model.label_file(silent)
    assert imputed.missing == "audio" and [source.own for source in imputed.sources] == [None, None]
    assert np.array_equal(imputed.probabilities, model.fusion.probabilities([None, None]))


def test_refused_files_have_no_label_on_request(trained: Any, models: Models, tmp_path: Path, caplog) -> None:
    """Under on_error="return" they are None and NaN, with a warning each; otherwise the first one raises."""
    model, bad = Model.load(models(QUICK)), tmp_path / "bad.mp4"
    bad.write_text("not a video")
    files = [trained.held[0], bad]
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        model.predict(files)
    labels = model.predict(files, on_error="return")
    assert labels.tolist() == [*model.predict(files[:1]), None] and f"{bad}: " in caplog.text
    assert np.isnan(model.predict_proba(files, on_error="return")).all(axis=1).tolist() == [False, True]
    assert model.predict([], on_error="return").shape == (0,)
    with pytest.raises(InputError, match="expected 'raise' or 'return'"):
        model.predict(files, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is one path; expected a list of paths"):
        model.predict(files[0])
    assert [result.file for result in model.label(files[:1])] == [str(files[0])]


def test_a_model_shows_itself(models: Models) -> None:
    """In a notebook as a table, with names escaped; elsewhere in one line."""
    model = Model.load(models(QUICK))
    html = model._repr_html_()
    assert model.id.digest in html and "excited, sad" in html and "cross-validated accuracy" in html
    model.card = replace(model.card, name="<b>")
    assert "<b>" not in model._repr_html_() and "\n" not in repr(model) and "twodmcnn@brief" in repr(model)


# Another machine than the one it was fine-tuned on


def change_recipes(folder: Path, **values: object) -> None:
    """Change the recipes of all sources in the card, and its digest."""
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    for source in card["sources"]:
        source["recipe"].update(values)
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def test_a_model_of_a_gpu_labels_on_a_cpu_on_request(
    trained: Any,
    models: Models,
    model_copy: Path,
    predict: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without a GPU the error names --device; with it the model predicts as on the CPU, and warns."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    change_recipes(model_copy, device="cuda")
    assert predict("--model", model_copy, trained.held[0]) == 2
    assert "made on a GPU, and torch finds none here; give --device cpu" in capfd.readouterr().err
    with pytest.raises(ModelError, match="--device cuda: torch finds no CUDA device"):
        Model.load(model_copy, device="cuda")
    probabilities = Model.load(model_copy, device="cpu").predict_proba(trained.held[:1])
    assert np.array_equal(probabilities, Model.load(models(QUICK)).predict_proba(trained.held[:1]))
    assert "made on cuda, used on cpu" in caplog.text
    assert predict("--model", model_copy, "--device", "cpu", trained.held[0]) == 0


def test_a_model_in_bfloat16_computes_in_float32_on_other_cpus(
    model_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning: bfloat16 without its instructions is many times slower."""
    change_recipes(model_copy, precision="bf16")
    for has_bfloat16, precision in ((False, "fp32"), (True, "bf16")):
        caplog.clear()
        monkeypatch.setattr("moodfuse.extract.inference.has_bfloat16", lambda device, has=has_bfloat16: has)
        model = Model.load(model_copy)
        assert {source.recipe.precision for source in model._sources} == {precision}
        assert ("computes in float32" in caplog.text) is not has_bfloat16
