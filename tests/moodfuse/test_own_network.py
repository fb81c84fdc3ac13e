"""A network of another package goes through all stages: the example of docs/networks.md, built as a wheel."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stages import run
from safetensors.torch import save_file

from moodfuse.cache.errors import InputError
from moodfuse.extract.networks import network_spec, weights_facts
from moodfuse.model.model import Model

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
from setuptools import setup
setup(name="colour-network", version="1.0", py_modules=["colour_network"],
      data_files=[("", ["colours.safetensors"])],
      entry_points={"moodfuse.networks": ["colours = colour_network:SPEC"]})
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of the example is installed."""
    project, target = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("installed")
    page = (ROOT / "docs/networks.md").read_text("utf-8")
    match = re.search(r"<!-- own-network -->\n```python\n(.*?)```\n<!-- /own-network -->", page, re.DOTALL)
    assert match
    (project / "colour_network.py").write_text(match[1])
    (project / "setup.py").write_text(SETUP)
    torch.manual_seed(0)
    arrays = {"body.weight": torch.randn(16, 3, 8, 8) / 10, "body.bias": torch.zeros(16)}
    save_file(arrays, project / "colours.safetensors")
    hook = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", hook], cwd=project, check=True, capture_output=True)
    (wheel,) = project.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    (data,) = target.glob("*.data/data/colours.safetensors")
    data.rename(target / data.name)  # where pip puts data files of the root
    return target


@pytest.fixture
def on_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel is installed, here and in new processes."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(installed))))
    return installed


def test_a_network_of_a_wheel_goes_through_all_stages(
    on_path: Path, export: Callable[..., Path], dataset: Path, tmp_path: Path
) -> None:
    """Tuned at depth head with its own weights, fused, exported; predicted and served by new processes."""
    networks = run("networks").splitlines()
    line = networks.index("colours: video, embedding 16, of the package colour-network")
    assert networks[line + 1].startswith("torchvision:") and networks[line + 2].startswith("torchvision:")
    model = export("colours", tmp_path)
    file = next((dataset / "clips").rglob("*.mp4"))
    expected = Model.load(model).predict_proba([str(file)])[0]
    call = [sys.executable, "-m", "moodfuse", "predict", "--model", model, file, "--format", "jsonl"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    predicted = list(json.loads(done.stdout)["probabilities"].values())
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    np.testing.assert_allclose(serve(model, file.read_bytes(), tmp_path), expected, atol=1e-6)


def serve(model: Path, content: bytes, folder: Path) -> list[float]:
    """The probabilities that `moodfuse serve` answers."""
    pytest.importorskip("uvicorn", reason="the extra is missing: pip install 'moodfuse[serve]'")
    call = [sys.executable, "-m", "moodfuse", "serve", "--model", model, "--port", "0"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        match = re.search(r"http://127.0.0.1:(\d+)/", said)
        assert match, said + process.stderr.read()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(match[1]), timeout=60)
            connection.request("POST", "/predict", body=content, headers={"Content-Type": "video/mp4"})
            answer = json.loads(connection.getresponse().read())
        finally:
            process.send_signal(signal.SIGINT)
    return list(answer["probabilities"].values())


def test_a_spec_is_found_by_its_module(on_path: Path) -> None:
    """``package.module:NAME`` of an installed package, under that name, with the weights of the spec."""
    spec = network_spec("colour_network:SPEC")
    assert spec.name == "colour_network:SPEC" and spec.weights is not None
    assert weights_facts(spec.weights, spec.name).layout == "moodfuse"
    with pytest.raises(InputError, match="is type, expected a NetworkSpec"):
        network_spec("colour_network:Colours")
    with pytest.raises(InputError, match="cannot be imported"):
        network_spec("colour_network:NONE")
    with pytest.raises(InputError, match="no installed package has this module"):
        network_spec("os:system")
