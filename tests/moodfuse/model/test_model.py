"""Models: they predict what their run scored, in any order and anywhere."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moodfuse.cache.digests import digest
from moodfuse.cache.runs import Run
from moodfuse.cli import main
from moodfuse.export import find_result
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.renditions import SHORT_SIDE_PX, media_of
from moodfuse.model.card import ModelError
from moodfuse.model.model import Model

BOTH = "onedmcnn@brief+twodmcnn@brief"
QUICK, TREES = f"{BOTH} softmax logits", f"{BOTH} lightgbm embedding"
Models = Callable[..., Path]


def scored(run: Run, name: str, files: tuple[str, ...]) -> np.ndarray:
    """Rows of a run's result for some files."""
    places = [next(row for row, item in enumerate(run.ids) if file.endswith(item)) for file in files]
    return np.asarray(find_result(run.results, name).probabilities[places])


@pytest.mark.parametrize(
    "name",
    [QUICK, TREES, "twodmcnn@brief network logits"],
)
def test_a_model_predicts_unseen_files_as_its_run_did(name: str, trained: Any, models: Models) -> None:
    """Exported without one fold's clips, it predicts their files as the run of all folds scored them."""
    probabilities = Model.load(models(name)).predict_proba(trained.held)
    assert np.allclose(probabilities, scored(trained.run, name, trained.held), rtol=0, atol=1e-5)


def test_a_training_clip_has_the_features_of_the_cache(trained: Any, models: Models) -> None:
    """Embedding and logits are bit for bit those of the cache, for a frozen network and a fine-tuned head."""
    model, status = Model.load(models(QUICK)), trained.cache.clips[0]
    media = media_of(read_clip(status.clip.path, short_side_px=SHORT_SIDE_PX))
    for shipped in model._sources:
        recipe = trained.cache.recipe(shipped.recipe.source)
        for number, rows in enumerate(shipped.embed(media)):
            block = trained.cache.block(recipe.source, {number} if recipe.sees_labels else "*")
            assert block.ids[0] == status.clip.id
            assert np.array_equal(rows["embedding"], block.embedding[0])
            assert block.logits is None or np.array_equal(rows["logits"], block.logits[0])


def test_order_batch_and_jobs_do_not_change_a_bit(trained: Any, models: Models) -> None:
    """Files together, in reverse, alone, in two decoding processes and from several threads give the same bits."""
    model, files = Model.load(models(TREES)), list(trained.held)
    together = model.predict_proba(files)
    assert np.array_equal(model.predict_proba(files[::-1], jobs=2)[::-1], together)
    alone: dict[int, np.ndarray] = {}

    def predict(number: int) -> None:
        alone[number] = model.predict_proba([files[number]])[0]

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(alone[number], together[number]) for number in range(len(files)))
    assert list(model.predict(files)) == [model.classes[place] for place in together.argmax(axis=1)]


def test_a_moved_model_needs_neither_a_cache_nor_the_libraries_that_fit(
    trained: Any, models: Models, tmp_path: Path
) -> None:
    """In a new process and another folder predictions are the same, without LightGBM and scikit-learn."""
    expected = Model.load(models(TREES)).predict_proba(trained.held[:1])
    moved = Path(shutil.copytree(models(TREES), tmp_path / "elsewhere" / "model"))
    script = (
        "import sys\nfrom moodfuse import Model\n"
        "if __name__ == '__main__':\n"
        "    found = Model.load(sys.argv[1]).predict_proba(sys.argv[2:])\n"
        "    print(found.tobytes().hex(), *sorted({'lightgbm', 'sklearn'} & set(sys.modules)))\n"
    )
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(moved), trained.held[0]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == [expected.tobytes().hex()]


def test_a_file_without_a_modality_is_refused_or_imputed(
    trained: Any, models: Models, halves: tuple[Path, Path]
) -> None:
    """A model that reads audio only labels a file without video; a file without audio is refused or imputed."""
    mute, blind = halves
    for impute in (False, True):
        model = Model.load(models(QUICK, impute=impute))
        heard, whole = model.label_file(blind), model.label_file(trained.held[0])
        assert heard.missing == "" and np.allclose(heard.probabilities, whole.probabilities, atol=1e-4)
        rows = model.timeline(blind).probabilities
        assert np.allclose(rows[0], whole.probabilities, atol=1e-4)
    found = model.label_file(mute)
    assert found.missing == "sound" and [item.own for item in found.sources] == [None, None]
    assert np.array_equal(found.probabilities, model.fusion.probabilities([None, None]))
    model = Model.load(models(QUICK))
    for label in (model.label_file, model.timeline):
        with pytest.raises(MediaError, match="the file has no audio track") as refused:
            label(mute)
        assert refused.value.code == "no_audio"


@pytest.fixture(scope="module")
def halves(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of the clips without its audio, and without its video."""
    import av

    folder = tmp_path_factory.mktemp("halves")
    for kind, name in (("video", "mute.mp4"), ("audio", "blind.mp4")):
        with av.open(trained.held[0]) as source, av.open(folder / name, "w") as target:
            stream = next(item for item in source.streams if item.type == kind)
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    return folder / "mute.mp4", folder / "blind.mp4"


# Another device than the one it was fine-tuned on


def reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the card and its digest."""
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    change(card)
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def made_on_a_gpu(folder: Path) -> Path:
    """Mark every source of a model as fine-tuned on a GPU."""
    reseal(folder, lambda card: [source["recipe"].update(device="cuda") for source in card["sources"]])
    return folder


def test_a_model_of_a_gpu_labels_on_a_cpu_on_request(
    trained: Any,
    models: Models,
    model_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a GPU the error names --device; with it the model predicts as on the CPU, and warns."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="made on a GPU, and torch finds none here; give --device cpu"):
        Model.load(made_on_a_gpu(model_copy))
    with pytest.raises(ModelError, match="--device cuda: torch finds no CUDA device"):
        Model.load(model_copy, device="cuda")
    for device in ("cpu", "auto"):
        caplog.clear()
        found = Model.load(model_copy, device=device).predict_proba(trained.held[:2])
        assert "made on cuda, used on cpu" in caplog.text
        assert np.array_equal(found, Model.load(models(QUICK)).predict_proba(trained.held[:2]))
    caplog.clear()
    Model.load(models(QUICK), device="cpu")
    assert not caplog.records, "it was fine-tuned there"
    reseal(model_copy, lambda card: [source["recipe"].update(compile=True) for source in card["sources"]])
    assert not any(source.recipe.compile for source in Model.load(model_copy, device="cpu")._sources)


def test_commands_pass_the_device_on(
    trained: Any, model_copy: Path, predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """`predict` and `serve` refuse the model of a GPU without one; `--device cpu` accepts it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made_on_a_gpu(model_copy)
    assert predict("--model", model_copy, trained.held[0]) == 2
    assert "give --device cpu" in capfd.readouterr().err
    assert predict("--model", model_copy, "--device", "cpu", trained.held[0]) == 0
    assert predict("--model", model_copy, "--device", "gpu", trained.held[0]) == 2
    assert "--device 'gpu' is unknown; known: auto, cpu, cuda" in capfd.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--model", str(model_copy), "--port", "0"])
    assert stopped.value.code == 2 and "give --device cpu" in capfd.readouterr().err


def test_a_model_in_bfloat16_computes_in_float32_on_other_cpus(
    model_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning: bfloat16 without its instructions is many times slower."""
    reseal(model_copy, lambda card: [source["recipe"].update(precision="bf16") for source in card["sources"]])
    for here, precision in ((False, "fp32"), (True, "bf16")):
        caplog.clear()
        monkeypatch.setattr("moodfuse.extract.inference.has_bfloat16", lambda device, here=here: here)
        model = Model.load(model_copy)
        assert {source.recipe.precision for source in model._sources} == {precision}
        assert ("computes in float32" in caplog.text) is not here
