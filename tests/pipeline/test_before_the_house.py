"""Files of the code before the rooms were rebuilt (tests/data/before_the_house): written alike today, and read."""

import json
import re
import shutil

import numpy as np
import pytest

from models import pretrained
from pipeline.runs import trained_model
from tests.helpers.places import ROOT

BEFORE = ROOT / "tests" / "data" / "before_the_house"


def command(module, folder):
    """Returns a command of make.sh that reads the files there and writes to ``folder``."""
    script = (BEFORE / "make.sh").read_text().replace("\\\n", " ")
    (arguments,) = re.findall(rf"python -m ({module} .*)", script)
    arguments = re.sub(r"(--output|--run_dir)=", rf"\1={folder}/", arguments)
    return re.sub(r"=(corpus|data|tokenizer\.json)\b", rf"={BEFORE}/\1", arguments).split()


def test_the_same_tokenizer_and_shards_are_written(run_module, tmp_path):
    for module in ("pipeline.tokenizer", "pipeline.shard"):
        done = run_module(*command(module, tmp_path))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "tokenizer.json").read_bytes() == (BEFORE / "tokenizer.json").read_bytes()
    files = {path.name: path.read_bytes() for path in (BEFORE / "data").iterdir()}
    assert len(files) == 4 and {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == files


@pytest.mark.slow
def test_its_checkpoint_goes_on_to_the_same_losses(run_module, tmp_path):
    shutil.copytree(BEFORE / "run", tmp_path / "run")
    # The settings that its gin file had then; parameter scaling is the file's choice now.
    then = ("scale_by_parameter=False", "base_width=None", "weight_decay=0.1")
    settings = [f"--gin_param=Adafactor.{setting}" for setting in then]
    done = run_module(*command("pipeline.train", tmp_path), *settings)
    assert done.returncode == 0 and "resumes at step 4" in done.stdout, done.stdout + done.stderr
    before, today = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (BEFORE / "metrics.jsonl", tmp_path / "run" / "metrics.jsonl")
    )
    assert [record["step"] for record in today] == [5, 6, 7, 8]
    for figure in ("loss", "grad_norm", "tokens"):
        expected = [record[figure] for record in before[4:]]
        np.testing.assert_allclose([record[figure] for record in today], expected, rtol=0, atol=1e-4, err_msg=figure)


def test_its_export_holds_the_weights_of_its_checkpoint():
    model = trained_model.load(str(BEFORE / "run")).model
    trained = {name: tensor.copy() for name, tensor in pretrained.tensors_of(model).items()}
    for variable in model.trainable_variables:
        variable.assign(variable * 0)
    pretrained.load_into(model, str(BEFORE / "native"))
    assert pretrained.read_config(str(BEFORE / "native")) == model.config
    for name, tensor in pretrained.tensors_of(model).items():
        np.testing.assert_array_equal(tensor, trained[name])
        assert tensor.any() or name.endswith("bias"), name
