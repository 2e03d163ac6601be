"""gin: what a wrong name, value or file is told, and where a value is said to come from."""

import subprocess
import sys

import pytest

from models.config import GPT2Config
from pipeline import config
from pipeline.errors import UserError
from pipeline.training.optimizers import AdafactorConfig
from pipeline.training.settings import TrainConfig


@pytest.fixture
def gin_file(tmp_path):
    def write(text, name="run.gin"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["gpt2.gin", "algpt2.gin", "quickstart.gin"])
def test_run_files_load_completely(name):
    config.load([name])
    settings = config.get(TrainConfig)
    assert config.chosen(config.MODELS, settings.model, "train.model").layers > 0
    assert config.chosen(config.OPTIMIZERS, settings.optimizer, "train.optimizer").learning_rate > 0


@pytest.mark.parametrize("path", sorted((config.ROOT / "models").glob("*.gin")), ids=lambda path: path.stem)
def test_a_models_file_states_its_parameters(path):
    config.load([str(path)])
    first = path.read_text().splitlines()[0]
    surface = config.SURFACES[config.MODELS[config.gin.query_parameter("train.model")]]
    import dataclasses

    parameters = dataclasses.replace(config.get(surface), vocabulary_size=50_257).parameters()
    assert f"{parameters:,} parameters" in first or f"about {parameters / 1e6:.1f}M parameters" in first


def test_a_bare_word_on_the_command_line_is_text():
    for parameter in ("train.schedule=cosine", "train.schedule='cosine'", 'train.schedule = "cosine"'):
        config.load(["algpt2.gin"], [parameter])
        assert config.get(TrainConfig).schedule == "cosine"


def test_later_bindings_win_and_keep_their_origin(gin_file):
    path = gin_file("include 'algpt2.gin'\nALGPT2.layers = 3\n")
    config.load([path], ["ALGPT2.heads=2", "ALGPT2.width=64"])
    text = config.provenance(config.chosen(config.MODELS, "algpt2", "train.model"))
    origins = {line.split(" = ")[0]: line.split("# ")[1] for line in text.strip().splitlines()}
    assert origins["ALGPT2.layers"] == f"{path}:2"
    assert origins["ALGPT2.heads"] == "--gin_param=ALGPT2.heads=2"
    assert origins["ALGPT2.context"] == "gin/models/algpt2-base.gin:6"
    assert origins["ALGPT2.dropout"] == "default"


def test_macros_are_looked_up_when_used(gin_file):
    config.load([gin_file("GPT2.width = %WIDTH\nGPT2.heads = 2\nWIDTH = 64\n")])
    assert config.get(GPT2Config).width == 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trian.steps = 3", "did you mean 'train'?"),
        ("train.step = 3", "did you mean 'steps'?"),
        ("train.steps = 'many'", "train.steps = 'many': expected a whole number"),
        ("train.steps = 2.5", "expected a whole number"),
        ("train.steps = True", "expected a whole number"),
        ("train.steps = 0", "expected at least 1"),
        ("train.schedule = 'cosin'", "expected one of 'linear', 'cosine'"),
        ("train.steps = 'x", "run.gin:2"),
        ("train.steps 3", "run.gin:2"),
        ("train.steps = %STEPS", "STEPS"),
        ("include 'modles/gpt2-small.gin'", "did you mean 'models/gpt2-small.gin'?"),
        ("include 'RUN'", "includes itself"),
        ("import tensorflow", "import is not needed"),
        ("train.steps = @nothing()", "nothing"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(gin_file, text, expected):
    path = gin_file("include 'algpt2.gin'\n" + text + "\n")
    if "RUN" in text:
        path = gin_file(f"include '{path}'\n")
    with pytest.raises(UserError) as refusal:
        config.load([path])
        config.get(TrainConfig)
    assert expected in str(refusal.value) and "\n" not in str(refusal.value)


def test_missing_values_are_named_all_at_once():
    config.load([])
    with pytest.raises(UserError, match=r"train.model, train.optimizer, train.steps, train.global_batch"):
        config.get(TrainConfig)


def test_a_missing_file_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'algpt2.gin'"):
        config.load(["algpt.gin"])


def test_whole_numbers_serve_as_numbers():
    config.load([], ["Adafactor.learning_rate=1"])
    assert config.get(AdafactorConfig).learning_rate == 1


def test_reading_gin_imports_neither_tensorflow_nor_keras():
    code = "import sys; from pipeline import train; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
