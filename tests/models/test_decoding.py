"""Generation with the cache against the model without one, and the rules of sampling."""

import numpy as np
import pytest
import tensorflow as tf

from models.decoding import generate
from models.sampling import Sampling, choose, choose_by

GREEDY = Sampling(temperature=0)
PROMPTS = [[5, 6, 7], [9, 8] * 10, [1]]
NEVER_ENDS = 299


def greedy_without_cache(model, prompt, count, end_of_text):
    row = list(prompt)
    for _ in range(count):
        token = int(np.argmax(model(tf.constant([row]))[0, -1]))
        if token == end_of_text:
            break
        row.append(token)
    return row[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_greedy_with_cache_equals_the_model_without(small_model, name):
    model = small_model(name)
    free = generate(model, PROMPTS, max_new_tokens=12, end_of_text=NEVER_ENDS, sampling=GREEDY)
    assert free == [greedy_without_cache(model, prompt, 12, NEVER_ENDS) for prompt in PROMPTS]
    assert len({token for row in free for token in row}) > 3
    plain = generate(model, PROMPTS, max_new_tokens=12, end_of_text=NEVER_ENDS, sampling=GREEDY, compiled=False)
    assert plain == free
    # Now a token that does occur ends its row, and the others continue.
    end = free[0][4]
    stopped = generate(model, PROMPTS, max_new_tokens=12, end_of_text=end, sampling=GREEDY)
    assert stopped == [greedy_without_cache(model, prompt, 12, end) for prompt in PROMPTS]
    assert len(stopped[0]) < 12


def test_a_row_does_not_depend_on_its_neighbours(small_model):
    model = small_model("gpt2")
    together = generate(model, PROMPTS, max_new_tokens=8, end_of_text=NEVER_ENDS, sampling=GREEDY)
    alone = [generate(model, [p], max_new_tokens=8, end_of_text=NEVER_ENDS, sampling=GREEDY)[0] for p in PROMPTS]
    assert together == alone


def test_seeds_decide_samples(small_model):
    model = small_model("gpt2")
    draw = lambda seed: generate(model, PROMPTS, max_new_tokens=8, end_of_text=NEVER_ENDS, seed=seed)  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_the_whole_context_can_be_used(small_model):
    model = small_model("gpt2")
    made = generate(model, [[1] * 40, [2]], max_new_tokens=8, end_of_text=NEVER_ENDS, sampling=GREEDY)
    assert made[0] == greedy_without_cache(model, [1] * 40, 8, NEVER_ENDS)


def draws(logits, sampling, count=4000, seen=()):
    rows = tf.repeat(tf.constant([logits], tf.float32), count, 0)
    marks = tf.repeat(tf.constant([[token in seen for token in range(len(logits))]]), count, 0)
    chosen = tf.function(lambda: choose(rows, marks, sampling, tf.constant([3, 4])), jit_compile=True)()
    return np.bincount(chosen, minlength=len(logits)) / count


PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
LOGITS = np.log(PROBABILITIES) - 3


def test_sampling_follows_the_softmax_and_its_temperature():
    np.testing.assert_allclose(draws(LOGITS, Sampling()), PROBABILITIES, atol=0.03)
    cold = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    np.testing.assert_allclose(draws(LOGITS, Sampling(temperature=0.5)), cold, atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), [1]),
        (Sampling(top_k=2), [1, 3]),
        (Sampling(top_k=99), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.39), [1]),
        (Sampling(top_p=0.5), [1, 3]),
        (Sampling(top_p=0.69), [1, 3]),
        (Sampling(top_p=0.71), [1, 2, 3]),
        (Sampling(top_p=0.999), [0, 1, 2, 3, 4]),
        (Sampling(top_k=3, top_p=0.6), [1, 3]),
    ],
)
def test_top_k_and_top_p_keep_the_fewest_likeliest(sampling, kept):
    expected = np.zeros(5)
    expected[kept] = PROBABILITIES[kept] / PROBABILITIES[kept].sum()
    found = draws(LOGITS, sampling)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert not found[expected == 0].any()


@pytest.mark.parametrize("limit", [{}, {"top_k": 3}, {"top_p": 0.9}])
@pytest.mark.parametrize("temperature", [1e-19, 1e-25, 1e-30, 1e-36, 1e-38, 1e-45, 1e-300])
@pytest.mark.parametrize("logits", [[-30.0, -25.0, -20.0, -22.0], [30.0, 20.0, 31.0, 1e-3], [-1e4, 1e4, 2e4, 0.0]])
def test_a_tiny_temperature_takes_the_likeliest(logits, temperature, limit):
    """In the program whose settings are fixed, and in that of the server and the SavedModel, which is given them."""
    row, seed = tf.constant([logits]), tf.constant([3, 4])
    assert int(choose(row, row < -1e9, Sampling(temperature=temperature, **limit), seed)[0]) == 2
    given = {"top_k": 0, "top_p": 1.0} | limit
    assert int(choose_by(row, tf.constant(temperature, tf.float32), given["top_k"], given["top_p"], seed)[0]) == 2


@pytest.mark.parametrize("top_p", [1e-30, 1e-37, 1e-38, 1e-40, 1e-46, 1e-320])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_tiny_top_p_takes_the_likeliest(top_p, top_k):
    row, seed = tf.constant([[0.0, 1.0, 5.0, 2.0]]), tf.constant([3, 4])
    assert int(choose(row, row < -1e9, Sampling(top_k=top_k, top_p=top_p), seed)[0]) == 2
    assert int(choose_by(row, tf.constant(1.0), top_k, tf.constant(top_p, tf.float32), seed)[0]) == 2


def test_repetition_penalty_lowers_what_was_seen_on_either_side_of_zero():
    greedy = Sampling(temperature=0, repetition_penalty=2.0)
    assert draws([3.0, 2.0, 1.0], greedy, 1)[0] == 1
    assert draws([3.0, 2.0, 1.0], greedy, 1, seen=[0])[1] == 1
    assert draws([-1.0, -1.5, -3.0], greedy, 1, seen=[0])[1] == 1


def test_repetition_penalty_remembers_prompt_and_new_tokens(small_model):
    model = small_model("gpt2")
    strong = Sampling(temperature=0, repetition_penalty=1e6)
    prompt = list(range(10))
    made = generate(model, [prompt, [4]], max_new_tokens=20, end_of_text=NEVER_ENDS, sampling=strong)
    assert len({*prompt, *made[0]}) == 30 and len({4, *made[1]}) == 21


@pytest.mark.parametrize(
    ("prompts", "count", "text"),
    [
        ([], 1, "empty prompt"),
        ([[1], []], 1, "empty prompt"),
        ([[1] * 40], 9, "at most 8 new tokens fit"),
        ([[1, 300]], 1, "token 300 in a prompt: expected 0 to 299"),
        ([[1]], 0, "max_new_tokens=0"),
    ],
)
def test_bad_prompts_are_refused(small_model, prompts, count, text):
    with pytest.raises(ValueError, match=text):
        generate(small_model("gpt2"), prompts, max_new_tokens=count, end_of_text=0)


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"repetition_penalty": 0},
        {"repetition_penalty": 1e-30},
        {"repetition_penalty": 1e30},
    ],
)
def test_bad_settings_are_refused(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}="):
        Sampling(**setting)
