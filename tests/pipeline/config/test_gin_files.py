"""gin: what a wrong name, value or file is told, and where a value is said to come from."""

import subprocess
import sys
import typing

import pytest

from models.config import GPT2Config
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.data.format.settings import ShardConfig
from pipeline.devices.slices import Slice
from pipeline.errors import UserError
from pipeline.optimizers.config import AdafactorConfig, MuonConfig, SGDConfig


@pytest.fixture
def gin_file(tmp_path):
    def write(text, name="run.gin"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["gpt2.gin", "algpt2.gin", "quickstart.gin"])
def test_run_files_load_completely(name):
    configuration = gin_reader.load([name])
    settings = configuration.get(TrainConfig)
    assert gin_reader.chosen(configuration, gin_reader.MODELS, settings.model, "train.model").layers > 0
    assert (
        gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer").learning_rate > 0
    )


@pytest.mark.parametrize("name", ["gpt2.gin", "algpt2.gin"])
def test_muons_file_replaces_the_optimizer_of_a_run_file(name):
    configuration = gin_reader.load([name, "optimizers/muon.gin"])
    settings = configuration.get(TrainConfig)
    optimizer = gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    assert isinstance(optimizer, MuonConfig) and optimizer.slots == "sharded"
    assert settings.steps == gin_reader.load([name]).get(TrainConfig).steps


@pytest.mark.parametrize("path", sorted((gin_reader.ROOT / "models").glob("*.gin")), ids=lambda path: path.stem)
def test_a_models_file_states_its_parameters(path):
    configuration = gin_reader.load([str(path)])
    first = path.read_text().splitlines()[0]
    surface = gin_reader.MODELS[configuration.bound(TrainConfig)["model"][0]]
    import dataclasses

    parameters = dataclasses.replace(configuration.get(surface), vocabulary_size=50_257).parameters()
    assert f"{parameters:,} parameters" in first or f"about {parameters / 1e6:.1f}M parameters" in first


def test_a_bare_word_on_the_command_line_is_text():
    for parameter in ("train.schedule=cosine", "train.schedule='cosine'", 'train.schedule = "cosine"'):
        assert gin_reader.load(["algpt2.gin"], [parameter]).get(TrainConfig).schedule == "cosine"


def test_later_bindings_win_and_keep_their_origin(gin_file):
    path = gin_file("include 'algpt2.gin'\nALGPT2.layers = 3\n")
    configuration = gin_reader.load([path], ["ALGPT2.heads=2", "ALGPT2.width=64"])
    text = configuration.provenance(gin_reader.chosen(configuration, gin_reader.MODELS, "algpt2", "train.model"))
    origins = {line.split(" = ")[0]: line.split("# ")[1] for line in text.strip().splitlines()}
    assert origins["ALGPT2.layers"] == f"{path}:2"
    assert origins["ALGPT2.heads"] == "--gin_param=ALGPT2.heads=2"
    assert origins["ALGPT2.context"] == "gin/models/algpt2-base.gin:6"
    assert origins["ALGPT2.dropout"] == "default"


def test_macros_are_looked_up_when_used(gin_file):
    configuration = gin_reader.load([gin_file("GPT2.width = %WIDTH\nGPT2.heads = 2\nWIDTH = 64\n")])
    assert configuration.get(GPT2Config).width == 64


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
        ("train.steps = @nothing()", "expected a literal or a %macro, got @nothing"),
        ("train.steps = @SGD()", "expected a literal or a %macro, got @SGD"),
        ("train.steps = %ONE\nONE = %TWO\nTWO = %ONE", "train.steps = %ONE: it refers to itself"),
        ("some/train.steps = 3", "nothing here has scopes; expected no some/"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(gin_file, text, expected):
    path = gin_file("include 'algpt2.gin'\n" + text + "\n")
    if "RUN" in text:
        path = gin_file(f"include '{path}'\n")
    with pytest.raises(UserError) as refusal:
        gin_reader.load([path]).get(TrainConfig)
    assert expected in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_configurations_of_a_process_are_independent(gin_file):
    first = gin_reader.load([gin_file("train.steps = %STEPS\nSTEPS = 3\nGPT2.layers = 5\n")])
    second = gin_reader.load([gin_file("train.steps = %STEPS\nSTEPS = 4\n", "other.gin")], ["SGD.learning_rate=2"])
    first.bind(GPT2Config, "width", 64, "a test")
    assert [each.bound(TrainConfig)["steps"][0] for each in (first, second)] == [3, 4]
    assert {name: value for name, (value, _) in first.bound(GPT2Config).items()} == {"layers": 5, "width": 64}
    assert second.bound(GPT2Config) == first.bound(SGDConfig) == {}
    assert "# --gin_param=SGD.learning_rate=2" in second.provenance(second.get(SGDConfig))
    assert first.provenance(SGDConfig(learning_rate=2)).count("# default") == 4
    gin_reader.reject_unused_overrides(first, TrainConfig, GPT2Config)
    gin_reader.reject_unused_overrides(second, TrainConfig, SGDConfig)
    with pytest.raises(UserError, match="SGD.learning_rate has no effect here"):
        gin_reader.reject_unused_overrides(second, TrainConfig, GPT2Config)


def test_missing_values_are_named_all_at_once():
    configuration = gin_reader.load([])
    with pytest.raises(UserError, match=r"train.model, train.optimizer, train.steps, train.global_batch"):
        configuration.get(TrainConfig)


def test_a_missing_file_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'algpt2.gin'"):
        gin_reader.load(["algpt.gin"])


TRAINS, SHARDS = (TrainConfig, GPT2Config, AdafactorConfig, Slice), (ShardConfig,)


@pytest.mark.parametrize("source", ["file", "command line"])
@pytest.mark.parametrize("used", [TRAINS, SHARDS], ids=["trains", "shards"])
@pytest.mark.parametrize("surface", gin_reader.SURFACES)
def test_a_surface_that_a_command_does_not_read_is_refused(gin_file, surface, used, source):
    """Each surface, bound beside those of a command; pipeline.train, tools.preflight and tools.sweep read the same."""
    setting = next(iter(typing.get_type_hints(gin_reader.SURFACES[surface])))
    line = f"{surface}.{setting} = {'gpt2' if setting == 'model' else 1!r}"
    chosen = gin_file("train.model = 'gpt2'\ntrain.optimizer = 'adafactor'\n") if used is TRAINS else gin_file("")
    configuration = gin_reader.load(
        [chosen, *([gin_file(line, "more.gin")] if source == "file" else [])], [line] * (source != "file")
    )
    if gin_reader.SURFACES[surface] in used:
        gin_reader.reject_unused_overrides(configuration, *used)
        return
    with pytest.raises(UserError, match=rf"{surface}.{setting} has no effect here: {surface} is not used, but "):
        gin_reader.reject_unused_overrides(configuration, *used)


@pytest.mark.parametrize(
    ("files", "parameters"),
    [
        (["gpt2.gin"], ["train.optimizer=adamw"]),  # Adafactor was the file's choice
        (["gpt2.gin", "algpt2.gin"], []),  # GPT2 was the first file's
        (["gpt2.gin"], ["train.model=algpt2"]),
        (["both.gin"], ["train.optimizer=sgd"]),  # chosen by hand among those that a file describes
        (["both.gin", "macro.gin"], []),
    ],
)
def test_what_files_set_for_another_choice_than_the_last_stays(gin_file, files, parameters):
    texts = {
        "both.gin": "train.optimizer = 'adafactor'\nAdamW.learning_rate = 1\nSGD.learning_rate = 1\n",
        "macro.gin": "train.optimizer = %OPTIMIZER\nOPTIMIZER = 'sgd'\n",
    }
    configuration = gin_reader.load(
        [gin_file(texts[name], name) if name in texts else name for name in files], parameters
    )
    settings = configuration.get(TrainConfig) if "gpt2.gin" in files else None
    model = gin_reader.MODELS[settings.model] if settings else GPT2Config
    optimizer = gin_reader.OPTIMIZERS[settings.optimizer] if settings else SGDConfig
    gin_reader.reject_unused_overrides(configuration, TrainConfig, model, optimizer)


NUMBERS = [
    f"{name}.{setting}"
    for name, surface in gin_reader.SURFACES.items()
    for setting, hint in typing.get_type_hints(surface).items()
    if {int, float} & {hint, *typing.get_args(hint)} and setting != "profile_steps"
]


@pytest.mark.parametrize("setting", NUMBERS)
def test_numbers_that_cannot_be_are_refused(setting):
    """1e400 is infinity to Python, and 1e39 to float32, which takes 1e-50 for 0 and 1e-40 for about that."""
    surface = gin_reader.SURFACES[setting.partition(".")[0]]
    impossible = ["1e400", "-1e400", "1e39", "1e-50", "1e-40", str(2**200), str(-(2**200)), "nan", "inf", "1e400-1e400"]
    for value in impossible:
        with pytest.raises(UserError, match=r"expected (a whole number|a number|name.parameter = value)"):
            gin_reader.load([], [f"{setting}={value}"]).bound(surface)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.steps=3000000000", "steps = 3000000000: expected at most 2,147,483,647"),
        ("train.global_batch=10000000000", "expected at most 2,147,483,647"),
        ("train.max_skipped_steps=-1", "expected 0 or more"),
        ("train.steps=-2", "expected at least 1, or -1 for one pass"),
        ("train.final_fraction=5", "expected 0 to 1"),
        ("train.warmup_fraction=0.5", "warmup_steps = 2000 and warmup_fraction = 0.5 contradict each other"),
        ("train.profile_steps=(2,'a')", "expected (a whole number, a whole number) or None"),
        ("GPT2.layers=1000000000", "expected at most 10,000"),
        ("GPT2.width=1000000000000000000", "expected at most 1,048,576"),
        ("GPT2.context=1000000000000000000", "expected at most 1,048,576"),
        ("GPT2.vocabulary_size=1000000000000000000", "expected at most 1,073,741,824"),
        ("Adafactor.learning_rate=-0.0", "must be above 0"),
    ],
)
def test_numbers_that_no_run_has_are_refused_at_once(setting, says):
    configuration = gin_reader.load(["gpt2.gin"], [setting])
    with pytest.raises(UserError) as refusal:
        configuration.get(gin_reader.SURFACES[setting.partition(".")[0]])
    assert says in str(refusal.value)


def test_a_warmup_may_be_given_twice_where_both_say_the_same():
    """As the settings of a run do, whose steps and warm-up its data have turned into numbers."""
    configuration = gin_reader.load(
        ["gpt2.gin"], ["train.steps=-1", "train.warmup_steps=0", "train.warmup_fraction=0.1"]
    )
    settings = configuration.get(TrainConfig).resolved(512 * 70)
    assert (settings.steps, settings.warmup_steps, settings.resolved(1)) == (70, 7, settings)


def test_a_zero_has_no_sign():
    configuration = gin_reader.load([], ["Adafactor.learning_rate=1", "Adafactor.weight_decay=-0.0"])
    assert repr(configuration.get(AdafactorConfig).weight_decay) == "0.0"


def test_whole_numbers_serve_as_numbers():
    assert gin_reader.load([], ["Adafactor.learning_rate=1"]).get(AdafactorConfig).learning_rate == 1


def test_reading_gin_imports_neither_tensorflow_nor_keras():
    code = "import sys; from pipeline import train; print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
