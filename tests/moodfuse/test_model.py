"""Models: what is scored is what ships, in any order and anywhere; and what is no model is refused."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from moodfuse.cache.digests import digest, file_digest
from moodfuse.cache.runs import Run
from moodfuse.cli import main
from moodfuse.export import find_result
from moodfuse.extract.media.container import MediaError
from moodfuse.extract.media.decode import read_clip
from moodfuse.extract.media.renditions import SHORT_SIDE_PX, media_of
from moodfuse.model.card import ModelError
from moodfuse.model.model import Ask, Model
from moodfuse.model.predictions import Prediction, Refusal

BOTH = "onedmcnn@brief+twodmcnn@brief"
QUICK, TREES = f"{BOTH} softmax logits", f"{BOTH} lightgbm embedding"
ARRAYS = "arrays.safetensors"
Models = Callable[..., Path]
TRIES = 3


def scored(run: Run, name: str, files: tuple[str, ...]) -> np.ndarray:
    """Rows of a run's result for some files."""
    places = [next(row for row, item in enumerate(run.ids) if file.endswith(item)) for file in files]
    return np.asarray(find_result(run.results, name).probabilities[places])


@pytest.mark.parametrize(
    "name",
    [QUICK, TREES, "twodmcnn@brief network logits"],
)
def test_a_model_says_of_unseen_files_what_the_run_said(name: str, trained: Any, models: Models) -> None:
    """Exported without one fold's clips, it predicts their files as the run of all folds scored them."""
    found = Model.load(models(name)).predict_proba(trained.held)
    assert np.allclose(found, scored(trained.run, name, trained.held), rtol=0, atol=1e-5)


def test_a_training_clip_gets_the_features_that_the_cache_holds(trained: Any, models: Models) -> None:
    """Frozen and head depth: embedding and logits of a file are, bit for bit, the rows of the cache."""
    model, status = Model.load(models(QUICK)), trained.cache.clips[0]
    media = media_of(read_clip(status.clip.path, short_side_px=SHORT_SIDE_PX))
    for shipped in model._sources:
        recipe = trained.cache.recipe(shipped.recipe.source)
        for number, rows in enumerate(shipped.says(media)):
            block = trained.cache.block(recipe.source, {number} if recipe.sees_labels else "*")
            assert block.ids[0] == status.clip.id
            assert np.array_equal(rows["embedding"], block.embedding[0])
            assert block.logits is None or np.array_equal(rows["logits"], block.logits[0])


def test_neither_order_nor_company_nor_jobs_change_a_bit(trained: Any, models: Models) -> None:
    """Files together, backwards, alone, in two decoding processes and from three threads at once: the same bits."""
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


def test_a_moved_model_needs_no_cache_nor_what_fits(trained: Any, models: Models, tmp_path: Path) -> None:
    """In a fresh process and another folder the answer is the same, and LightGBM and scikit-learn stay unloaded."""
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


def test_a_file_without_a_view_is_refused_or_filled_in(
    trained: Any, models: Models, halves: tuple[Path, Path]
) -> None:
    """A model that reads audio only labels a file without video; one without audio is refused, unless it is imputed.

    An imputed file has the training mean alone in place of the audio, which all sources read.
    """
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
        with pytest.raises(MediaError, match="the file has no sound track") as refused:
            label(mute)
        assert refused.value.code == "no_audio"


def test_a_song_is_labelled_by_a_model_that_reads_audio_only(models: Models, tmp_path: Path) -> None:
    """A model that reads audio only labels MP3 and FLAC files, and MODEL.md says so."""
    import av

    wave = (0.3 * np.sin(np.arange(32_000) * 0.09)).astype(np.float32)
    for name, codec, form in (("song.mp3", "libmp3lame", "fltp"), ("song.flac", "flac", "s16")):
        with av.open(tmp_path / name, "w") as target:
            stream = target.add_stream(codec, rate=16_000, layout="mono")
            for start in range(0, len(wave) - 1151, 1152):
                samples = wave[None, start : start + 1152]
                samples = samples if form == "fltp" else (samples * 32_767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples, format=form, layout="mono")
                frame.sample_rate, frame.pts = 16_000, start
                target.mux(stream.encode(frame))
            target.mux(stream.encode(None))
    folder = models(QUICK)
    song, same = Model.load(folder).label([Ask(str(tmp_path / name)) for name in ("song.mp3", "song.flac")])
    assert isinstance(song, Prediction) and isinstance(same, Prediction)
    assert np.allclose(song.probabilities, same.probabilities, atol=0.05)
    text = (folder / "MODEL.md").read_text(encoding="utf-8")
    assert (
        "the model reads audio only: files without video are labelled, files without audio are refused"
        in text
    )


def test_bad_files_are_named_in_their_place(trained: Any, models: Models, tmp_path: Path) -> None:
    """Among good files an empty one, a text and a missing one give a refusal each, in the order asked."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film")
    files = [
        str(tmp_path / "empty.mp4"),
        trained.held[0],
        str(tmp_path / "text.mp4"),
        str(tmp_path / "none.mp4"),
    ]
    found = list(Model.load(models(QUICK)).label(map(Ask, files)))
    assert [item.file for item in found] == files
    assert [type(item) for item in found] == [Refusal, Prediction, Refusal, Refusal]


@pytest.fixture(scope="module")
def halves(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of the clips without its sound, and without its picture."""
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


# Another device than it was made on


def made_on_a_gpu(folder: Path) -> Path:
    """Let every source of a model say that it was made on a GPU."""
    reseal(folder, lambda card: [source["recipe"].update(device="cuda") for source in card["sources"]])
    return folder


def test_a_model_of_a_gpu_labels_on_a_cpu_where_that_is_asked_for(
    trained: Any,
    models: Models,
    model_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a GPU it is refused with what to do; on the CPU it says what its networks say there, and warns."""
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
    assert not caplog.records, "it was made there"
    reseal(model_copy, lambda card: [source["recipe"].update(compile=True) for source in card["sources"]])
    assert not any(source.recipe.compile for source in Model.load(model_copy, device="cpu")._sources)


def test_commands_of_a_model_pass_the_device_on(
    trained: Any, model_copy: Path, predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """`predict` and `serve` refuse a GPU's model without a GPU; `--device cpu` takes it."""
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


def test_a_model_in_bfloat16_computes_in_float32_where_there_is_none(
    model_copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is said, and is many times faster than bfloat16 by other instructions."""
    reseal(model_copy, lambda card: [source["recipe"].update(precision="bf16") for source in card["sources"]])
    for here, precision in ((False, "fp32"), (True, "bf16")):
        caplog.clear()
        monkeypatch.setattr("moodfuse.extract.inference.has_bfloat16", lambda device, here=here: here)
        model = Model.load(model_copy)
        assert {source.recipe.precision for source in model._sources} == {precision}
        assert ("computes in float32" in caplog.text) is not here


# Damaged and hostile folders


def reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the card and make it consistent again, digests of the files included, as someone of ill will would."""
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    change(card)
    for place, facts in card.get("files", {}).items():
        if isinstance(facts, dict) and (folder / place).is_file():
            facts.update(sha256=file_digest(folder / place), bytes=(folder / place).stat().st_size)
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def put(**values: Any) -> Callable[[Path], None]:
    """Replace keys of the card."""
    return lambda folder: reseal(folder, lambda card: card.update(values))


def of_recipe(**values: Any) -> Callable[[Path], None]:
    """Replace keys of the first source's recipe."""
    return lambda folder: reseal(folder, lambda card: card["sources"][0]["recipe"].update(values))


def arrays(
    change: Callable[[dict[str, np.ndarray]], object], file: str = "arrays.safetensors"
) -> Callable[[Path], None]:
    """Change arrays of a file and make all digests consistent again."""

    def harm(folder: Path) -> None:
        found = {name: value.copy() for name, value in load((folder / file).read_bytes()).items()}
        change(found)
        (folder / file).write_bytes(save(found))
        reseal(folder, lambda card: None)

    return harm


def flip(file: str) -> Callable[[Path], None]:
    """One bit of a file."""

    def harm(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)

    return harm


def link(target: str) -> Callable[[Path], None]:
    """The arrays as a link out of the folder."""

    def harm(folder: Path) -> None:
        outside = folder.parent / "outside.safetensors"
        shutil.move(folder / "arrays.safetensors", outside)
        os.symlink(outside if target == "file" else target, folder / "arrays.safetensors")

    return harm


def linked_folder(folder: Path) -> None:
    shutil.move(folder / "networks", folder.parent / "networks")
    os.symlink(folder.parent / "networks", folder / "networks")


def pipe(folder: Path) -> None:
    (folder / "arrays.safetensors").unlink()
    os.mkfifo(folder / "arrays.safetensors")


def bomb(text: str) -> Callable[[Path], object]:
    """A card of other text."""
    return lambda folder: (folder / "model.json").write_text(text)


def outside(place: str) -> Callable[[Path], None]:
    """A network file beyond the folder."""

    def change(card: dict[str, Any]) -> None:
        card["files"][place] = card["files"].pop(card["sources"][0]["body"])
        card["sources"][0]["body"] = place

    return lambda folder: reseal(folder, change)


def twice(folder: Path) -> None:
    """One file as two networks."""
    reseal(folder, lambda card: card["sources"][0]["networks"].append(card["sources"][0]["networks"][0]))


def many_networks(folder: Path) -> None:
    """One file as more networks than there may be."""
    reseal(folder, lambda card: card["sources"][0].update(networks=card["sources"][0]["networks"] * 1000))


def many_arrays() -> dict[str, np.ndarray]:
    return {f"extra.{number}": np.zeros(1) for number in range(20_000)}


def sparse(folder: Path) -> None:
    """A network of holes that would take minutes to hash."""
    os.truncate(folder / BODY, 64 << 30)
    card = json.loads((folder / "model.json").read_text())
    del card["check"]
    card["files"][BODY]["bytes"] = 64 << 30
    (folder / "model.json").write_text(json.dumps({**card, "check": digest(card)}))


def first_of(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(found: dict[str, np.ndarray]) -> None:
        found[name].flat[0] = value

    return change


PICTURES = '{"kind":"video","interpolation":"bilinear uint8","crop_px":112,"resize_hw":[128,171]}'
BODY = "networks/00-body.safetensors"
HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit of the card": (flip("model.json"), "model.json"),
    "bit of the arrays": (flip("arrays.safetensors"), "not the ones that were written"),
    "bit of a network": (flip(BODY), "not the ones that were written"),
    "bit of the training list": (flip("training.safetensors"), "not the ones that were written"),
    "no card": (lambda folder: (folder / "model.json").unlink(), "is no model folder"),
    "no network": (lambda folder: (folder / BODY).unlink(), "is not there"),
    "network cut short": (lambda folder: os.truncate(folder / BODY, 1000), "1000 bytes"),
    "link out": (link("file"), "may not be links"),
    "link to a device": (link("/dev/zero"), "may not be links"),
    "linked folder": (linked_folder, "no plain folder"),
    "pipe": (pipe, "no plain file"),
    "path out": (outside("../outside.safetensors"), "no plain path"),
    "absolute path": (outside("/etc/passwd"), "no plain path"),
    "other labels": (put(classes=["excited", "happy", "sad"]), "do not make this model"),
    "labels out of order": (put(classes=["sad", "excited"]), "in order"),
    "label that is a path": (put(classes=["../x", "sad"]), "empty or a path"),
    "unknown key": (put(hook="os.system"), "missing or unknown"),
    "text for a number": (put(temperature="hot"), "temperature is str"),
    "temperature out of range": (put(temperature=1e9), "temperature"),
    "other level": (put(level="pixels"), "level"),
    "other head": (put(head_kind="pickle"), "no head of kind"),
    "newer schema": (put(schema=99), "schema 99"),
    "unknown network": (of_recipe(network="os:system"), "unknown source"),
    "huge threads": (of_recipe(threads=10**9), "threads"),
    "other input": (of_recipe(preprocessing=PICTURES), "input"),
    "huge frames": (of_recipe(preprocessing='{"kind":"video","crop_px":9000000}'), "cannot be followed"),
    "NaN in the head": (arrays(first_of("head.weights", np.nan)), "NaN or infinity"),
    "wrong shape": (arrays(lambda found: found.update({"head.mean": np.zeros(3)})), "expected float64"),
    "column out of range": (arrays(first_of("head.classes", 9)), "rising indices"),
    "arrays too many": (arrays(lambda found: found.update(extra=np.zeros(3))), "unknown arrays"),
    "fill missing": (arrays(lambda found: found.pop("source.1.fill")), "do not make this model"),
    "network of other shape": (arrays(lambda found: found.clear(), BODY), "sealed"),
    "no end of arrays": (
        arrays(lambda found: found.update({f"a{n}": np.zeros(1) for n in range(20_000)})),
        "10000 arrays",
    ),
    "one network twice": (twice, "another network already"),
    "no end of networks": (many_networks, "more than 1000 networks"),
    "network of holes": (sparse, "at most"),
    "card at its limit": (put(commands=["moodfuse x"] * 250_000, temperature="hot"), "temperature is str"),
    "deep JSON": (bomb("[" * 1_000_000), "model.json"),
    "huge card": (bomb('{"format":"moodfuse-model","a":"' + "a" * (17 << 20) + '"}'), "at most"),
    "numbers without end": (
        bomb('{"format":"moodfuse-model","schema":1,"a":' + "9" * 100_000 + "}"),
        "model.json",
    ),
    "no JSON": (bomb("\x80\x04cos\nsystem\n"), "model.json"),
}


@pytest.mark.parametrize("harm", HARMS, ids=str)
def test_a_folder_that_is_no_model_is_refused_at_once(harm: str, model_copy: Path) -> None:
    """Its reason is said, in under 2 s, and nothing in it runs."""
    change, said = HARMS[harm]
    change(model_copy)
    took = []
    for _ in range(TRIES):
        start = time.perf_counter()
        with pytest.raises(ModelError, match=said):
            Model.load(model_copy)
        took.append(time.perf_counter() - start)
    assert min(took) < 2


def test_a_tree_that_would_never_end_is_refused(models: Models, tmp_path: Path) -> None:
    """A child that points back, in a folder whose digests are all right, is refused when the model is read."""
    folder = Path(shutil.copytree(models(TREES), tmp_path / "model"))
    arrays(first_of("head.left", 0))(folder)
    with pytest.raises(ModelError, match="left child"):
        Model.load(folder)
