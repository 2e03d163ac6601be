"""notebooks/quickstart.ipynb, from its first cell to its last on the CPU, in a copy of what a clone has."""

import pathlib
import shutil
import subprocess

import pytest

from tests.helpers.places import ROOT

BOOK = ROOT / "notebooks" / "quickstart.ipynb"
SMALL = ["ALGPT2.layers=1", "ALGPT2.width=16", "ALGPT2.embedding=16"]
NEEDED = ("gin", "models", "notebooks", "pipeline", "tools")


def sources():
    """The text of each cell of code."""
    nbformat = pytest.importorskip("nbformat", reason="pip install -r requirements-dev.txt")
    return [cell.source for cell in nbformat.read(BOOK, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_it_leads_from_the_clone_to_a_model_its_report_and_a_sample(python, tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="pip install -r requirements-dev.txt")
    import nbformat

    for folder in NEEDED:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    book = nbformat.read(tmp_path / "notebooks" / BOOK.name, as_version=4)
    parameters = next(cell for cell in book.cells if cell.cell_type == "code")
    for name, value in (("PYTHON", python), ("STEPS", 2), ("SETTINGS", SMALL)):
        assert f"\n{name} = None " in parameters.source
        parameters.source = parameters.source.replace(f"\n{name} = None ", f"\n{name} = {value!r} ")
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()
    text = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))
    assert "136,976 parameters, 4,096 tokens" in text and "bits per byte" in text and "\nclass Queue" in text
    assert any("srcdoc" in str(output) for cell in book.cells for output in cell.get("outputs", []))
    assert (tmp_path / "runs" / "notebook-2" / "report.html").exists()


def test_it_uses_the_clone_that_it_is_in_or_asks_for_the_address_in_one_sentence(tmp_path, monkeypatch):
    (cell,) = [source for source in sources() if "REPOSITORY" in source and "import os" in source]
    inside, outside = tmp_path / "clone" / "notebooks", tmp_path / "elsewhere"
    for folder in (inside, outside, tmp_path / "clone" / "pipeline"):
        folder.mkdir(parents=True)
    (tmp_path / "clone" / "pipeline" / "train.py").touch()
    monkeypatch.chdir(inside)
    exec(cell, {"REPOSITORY": ""})
    assert pathlib.Path.cwd() == tmp_path / "clone"
    monkeypatch.chdir(outside)
    with pytest.raises(RuntimeError, match="set REPOSITORY, above, to the address that git clone takes"):
        exec(cell, {"REPOSITORY": ""})
    author = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    for command in (("init", "-q"), ("add", "."), (*author, "commit", "-qm", "begin")):
        subprocess.run(["git", *command], cwd=tmp_path / "clone", check=True)
    for repository in (f"file://{tmp_path}/clone", ""):  # the second time, the clone is there
        monkeypatch.chdir(outside)
        exec(cell, {"REPOSITORY": repository})
        assert pathlib.Path.cwd() == outside / "gpt2-tpu-pipeline"


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (["vfio/vfio", "vfio/0"], (1, "tpu")),  # v5e-1, v6e-1
        (["accel0", "accel1", "accel2", "accel3"], (4, "tpu")),
        (["nvidia0", "nvidiactl", "nvidia-uvm"], (0, "gpu")),
        (["null"], (0, "cpu")),
    ],
)
def test_it_tells_the_kinds_of_machine_apart(tmp_path, devices, expected):
    for name in devices:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (cell,) = [source for source in sources() if "def chips_and_kind" in source]
    names = {}
    exec("import pathlib\n" + cell, names)
    assert names["chips_and_kind"](str(tmp_path)) == expected


def test_its_pins_are_those_of_the_project():
    (cell,) = [source for source in sources() if "requirements-tpu.txt" in source]
    assert '"tensorflow-text==2.20.1"' in cell
    assert "--no-deps tensorflow-text==2.20.1" in (ROOT / "requirements-tpu.txt").read_text()
