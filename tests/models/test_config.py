"""Settings: the published parameter counts, FLOPs by hand, refusals."""

import subprocess
import sys

import pytest

import models
from models import ALGPT2Config, GPT2Config

SIZES = {"small": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "xl": (48, 25, 1600)}
GPT2_PARAMETERS = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "xl": 1_557_611_200}
ALGPT2_MILLIONS = {
    ("small", 128): 13.9,
    ("small", 256): 20.6,
    ("small", 512): 34.1,
    ("small", None): 46.5,
    ("medium", 128): 19.4,
    ("large", 128): 26.6,
    ("xl", 128): 37.7,
    ("medium", None): 65.1,
}


def sized(kind, size, **more):
    layers, heads, width = SIZES[size]
    return kind(layers=layers, heads=heads, width=width, vocabulary_size=50257, **more)


def values_in_the_model(config) -> int:
    """Counts a model's weights without allocating them: a graph only describes them."""
    import tensorflow as tf  # late: the other tests need none

    with tf.Graph().as_default():
        model = models.build(config)
        padding = (config.padded_vocabulary - config.vocabulary_size) * config.table_width
        return sum(variable.shape.num_elements() for variable in model.trainable_variables) - padding


@pytest.mark.parametrize("size", SIZES)
def test_gpt2_has_the_published_parameters(size):
    config = sized(GPT2Config, size)
    assert config.parameters() == GPT2_PARAMETERS[size]
    if size in ("small", "medium"):  # the others are more of the same layers, which take seconds to build
        assert values_in_the_model(config) == GPT2_PARAMETERS[size]


@pytest.mark.parametrize(("size", "embedding"), ALGPT2_MILLIONS)
def test_algpt2_has_the_published_parameters(size, embedding):
    config = sized(ALGPT2Config, size, embedding=embedding)
    assert round(config.parameters() / 1e6, 1) == ALGPT2_MILLIONS[size, embedding]
    assert values_in_the_model(config) == config.parameters()


def test_flops_count_a_shared_block_as_often_as_it_is_applied():
    gpt2 = GPT2Config(layers=5, heads=2, width=64, context=32, vocabulary_size=300)
    shared = ALGPT2Config(layers=5, heads=2, width=64, context=32, vocabulary_size=300, embedding=None)
    by_hand = 6 * (5 * (3 + 1 + 4 + 4) * 64 * 64 + 300 * 64) + 6 * 5 * 2 * 64 * 32
    assert gpt2.flops_per_token(32) == shared.flops_per_token() == by_hand
    narrow = ALGPT2Config(layers=5, heads=2, width=64, context=32, vocabulary_size=300, embedding=16)
    assert narrow.flops_per_token() == by_hand + 6 * (2 * 16 * 64 + 300 * 16 - 300 * 64)


def test_small_gpt2_needs_about_six_flops_per_parameter():
    config = sized(GPT2Config, "small")
    assert config.flops_per_token(0) == pytest.approx(6 * config.parameters(), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"heads": 5}, "heads=5 do not divide width=768; the nearest number of heads that does is 4"),
        ({"layers": 0}, "layers=0"),
        ({"width": 2.5}, "width=2.5"),
        ({"vocabulary_size": -1}, "vocabulary_size=-1"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"remat": "ful"}, "did you mean 'full'"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, text):
    with pytest.raises(ValueError, match=text.replace("(", "\\(")):
        GPT2Config(**settings)


def test_bad_embedding_width_and_unknown_vocabulary_are_refused():
    with pytest.raises(ValueError, match="embedding=0"):
        ALGPT2Config(embedding=0)
    with pytest.raises(ValueError, match="vocabulary_size=None"):
        models.build(GPT2Config())
    with pytest.raises(ValueError, match="compute_dtype='float16'"):
        models.build(GPT2Config(vocabulary_size=9), compute_dtype="float16")


def test_settings_import_nothing_heavy():
    code = "import models.config, models, sys; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("embedding", ["gpt2", 16, None])
def test_described_variables_are_those_of_the_built_model(embedding):
    """Names, order, shapes and initial size, which a dry run prints without building anything."""
    import numpy as np

    import models
    from models.pretrained import names_of
    from models.weight_specs import matrices_in, weight_specs

    sizes = {"layers": 2, "heads": 2, "width": 128, "context": 64, "vocabulary_size": 300}
    config = models.GPT2Config(**sizes) if embedding == "gpt2" else models.ALGPT2Config(**sizes, embedding=embedding)
    built, described = names_of(models.build(config)), weight_specs(config)
    assert list(built) == list(described)
    for name, variable in built.items():
        shape, rms = described[name]
        assert tuple(variable.shape) == shape, name
        real = variable.numpy()[: getattr(variable, "logical_rows", None)]
        assert np.sqrt(np.mean(real**2)) == pytest.approx(rms, rel=0.1), name
        kernel = name.startswith("block_") and len(shape) == 2
        assert matrices_in(variable.path) == (3 if "query_key_value" in name else 1) * kernel, name
