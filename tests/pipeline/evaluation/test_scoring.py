"""Likelihoods equal a float64 numpy reference for every stride; benchmark files are read right or refused by field."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf

import models
from pipeline.config.batch_plan import BatchPlan
from pipeline.data.format import manifest, records
from pipeline.data.format import tokenizer as tokenizers
from pipeline.errors import UserError
from pipeline.evaluation import answers, benchmarks, comparability, scoring
from pipeline.evaluation.benchmarks import Example
from pipeline.optimizers import config
from pipeline.optimizers.build import build
from pipeline.optimizers.schedules import Schedule
from pipeline.runs.trained_model import TrainedModel
from pipeline.training.step import make_train_step

SENTENCE = "the cat sat on the mat and the dog sat on the log .\n"
TEXT = "".join(SENTENCE[i % 7 :] for i in range(23))


@functools.cache
def traced(model):
    return tf.function(model, autograph=False)


def reference(model, tokens, context, stride):
    """Summed nats of tokens[1:], in float64 from logits, window by window, the last one at the end."""
    nats, done, start = 0.0, 0, 0
    while done < len(tokens) - 1:
        start = max(0, min(start, len(tokens) - 1 - context))
        window = np.array(tokens[start : start + context + 1])
        logits = traced(model)(tf.constant(window[None, :-1], tf.int32)).numpy()[0].astype(np.float64)
        highest = logits.max(-1, keepdims=True)
        nll = (highest + np.log(np.exp(logits - highest).sum(-1, keepdims=True)))[:, 0]
        nll -= logits[np.arange(len(nll)), window[1:]]
        nats += nll[done - start :].sum()
        done, start = start + len(nll), start + stride
    return nats


@pytest.fixture(scope="module", params=["random", "trained"])
def run(request):
    tokenizer = tokenizers.train([SENTENCE] * 20, 270, "tiny")
    size = {"layers": 2, "heads": 2, "width": 32, "context": 32, "vocabulary_size": tokenizer.vocabulary_size}
    model = models.build(models.GPT2Config(**size), seed=5)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    if request.param == "trained":
        optimizer = build(config.AdamWConfig(learning_rate=5e-3), Schedule(kind="constant", steps=60))
        optimizer.build(model.trainable_variables)
        plan = BatchPlan(global_batch=4, replicas=1, accumulation=1, microbatch=4, context=32)
        step = make_train_step(model, optimizer, plan, clip_norm=1.0, all_reduce=lambda sums: sums)
        step = tf.function(step, jit_compile=True)
        ids = np.array(tokenizer.encode(TEXT))
        for seed in range(60):
            starts = np.random.default_rng(seed).integers(0, len(ids) - 33, (4, 1))
            rows = ids[starts + np.arange(33)]
            loss = step({"tokens": tf.constant(rows, tf.int32), "index": tf.range(4, dtype=tf.int64)})["loss"]
        assert loss < 2.0
    return TrainedModel(model, tokenizer, 0, {}, "run")


@pytest.mark.parametrize(("context", "stride"), [(32, 32), (32, 16), (32, 1), (32, 31), (20, 7)])
def test_figures_equal_the_reference(run, context, stride):
    likelihood = scoring.score_text(run, TEXT, context=context, stride=stride, batch=3)
    tokens = [run.tokenizer.end_of_text, *run.tokenizer.encode(TEXT)]
    nats = reference(run.model, tokens, context, stride)
    count = len(tokens) - 1
    figures = likelihood.figures()
    assert figures["tokens"] == count
    assert abs(figures["nats_per_token"] - nats / count) < 1e-6
    for figure, units in (("token_perplexity", count), ("word_perplexity", len(TEXT.split()) + TEXT.count("\n"))):
        assert abs(np.log(figures[figure]) - nats / units) < 1e-6 * max(1, count / units)
    for figure, units in (("bits_per_byte", len(TEXT.encode())), ("bits_per_character", len(TEXT))):
        assert abs(figures[figure] * np.log(2) - nats / units) < 1e-6


def write_part(directory, tokenizer, packing, context):
    """Writes TEXT, and a line that is too long for a record, as a validation part; returns its rows, unpadded."""
    text = TEXT + "the cat sat on " * 30
    if packing == "lines":
        lines = [[*tokenizer.encode(line), tokenizer.end_of_text][: context + 1] for line in text.split("\n")]
        padded = [line + [tokenizer.end_of_text] * (context + 1 - len(line)) for line in lines]
        tail = []
    else:
        lines = [[*tokenizer.encode(text), tokenizer.end_of_text]]
        count = (len(lines[0]) - 1) // context
        padded = [lines[0][i * context : (i + 1) * context + 1] for i in range(count)]
        tail = lines[0][count * context :]
        assert len(tail) > 1, "there is nothing in the tail"
    data = records.encode(np.array(padded, np.uint16)).tobytes()
    (directory / "validation").write_bytes(data)
    shard = manifest.Shard(file="validation", records=len(padded), bytes=len(data), crc32c="0")
    counts = {"documents": 1, "tokens": len(padded) * (context + 1) if not tail else len(lines[0]), "tail": tail}
    counts |= {"utf8_bytes": len(text), "words": len(text.split()), "word_rule": "whitespace"}
    known = {"fingerprint": tokenizer.fingerprint, "vocabulary_size": tokenizer.vocabulary_size}
    made = manifest.Manifest(
        corpus=manifest.Corpus(name="c", fingerprint="f", listing="l", seed=0, order="source"),
        tokenizer=manifest.Tokenizer(name="t", end_of_text=tokenizer.end_of_text, **known),
        record=manifest.Record(context=context, bytes=records.record_bytes(context), packing=packing),
        parts={"validation": manifest.Part(**counts, records=len(padded), shards=(shard,))},
    )
    (directory / "manifest.json").write_text(made.dumps())
    return lines, counts


@pytest.mark.parametrize("context", [32, 64])
@pytest.mark.parametrize("packing", ["contiguous", "lines"])
def test_data_are_divided_by_what_was_scored_or_not_at_all(run, tmp_path, packing, context):
    rows, counts = write_part(tmp_path, run.tokenizer, packing, context)
    likelihood, protocol = scoring.score_data(run, str(tmp_path), "validation", batch=3)
    windows = [row[first : first + 33] for row in rows for first in range(0, len(row) - 1, 32)]
    nats, tokens = sum(reference(run.model, window, 32, 32) for window in windows), sum(len(row) - 1 for row in rows)
    figures = likelihood.figures()
    assert figures["tokens"] == tokens and figures["nats_per_token"] == pytest.approx(nats / tokens, abs=1e-6)
    if packing == "lines":
        assert not {*figures} & {*comparability.BY_TEXT} and protocol["left_out"] == comparability.LEFT_OUT
        assert protocol["first_token"] == "of each line: not scored" and "last_window" not in protocol
    else:
        assert figures["bits_per_byte"] == pytest.approx(nats / np.log(2) / counts["utf8_bytes"], rel=1e-6)
        assert np.log(figures["word_perplexity"]) == pytest.approx(nats / counts["words"], rel=1e-6)
        assert "left_out" not in protocol and protocol["last_window"] == comparability.SHORT


def test_choices_equal_the_reference(run):
    prompts = ["the cat sat", "and the dog", "the dog sat on the log . " * 9]
    examples = [Example(prompt, (" on the mat", " log", " the the the cat"), 0) for prompt in prompts]
    right = normalised = 0
    for example in examples:
        nats = []
        for choice in example.choices:
            after = run.tokenizer.encode(choice)
            tokens = [run.tokenizer.end_of_text, *run.tokenizer.encode(example.prompt), *after][-33:]
            before = reference(run.model, tokens[: -len(after)], 32, 32)
            nats.append(reference(run.model, tokens, 32, 32) - before)
        right += int(np.argmin(nats) == 0)
        normalised += int(
            np.argmin([nat / len(choice) for nat, choice in zip(nats, example.choices, strict=True)]) == 0
        )
    made = answers.score(run, examples, batch=4)
    assert made == {
        "accuracy": right / 3,
        "accuracy_normalised": normalised / 3,
        "examples": 3,
        "cut_prompts": 3,
    }
    last = [Example(prompt, (" on the mat",), 0) for prompt in prompts[:2]]
    nats = 0.0
    for example in last:
        before = [run.tokenizer.end_of_text, *run.tokenizer.encode(example.prompt)]
        after = run.tokenizer.encode(" on the mat")
        nats += reference(run.model, before + after, 32, 32) - reference(run.model, before, 32, 32)
    made = answers.score(run, last, batch=4)
    assert made["nats_per_word"] == pytest.approx(nats / 2, abs=1e-5) and made["examples"] == 2


@pytest.mark.parametrize(
    ("benchmark", "line", "expected"),
    [
        ("lambada_openai", '{"txt": "a b"}', "line 1: no field 'text'; it has txt .did you mean 'txt'"),
        ("lambada", "word", "no last word"),
        ("hellaswag", '{"ctx": "a", "endings": ["b", "c"]}', "no field 'label'"),
        ("hellaswag", '{"ctx": "a", "endings": "b", "label": 0}', "'endings' is 'b'"),
        ("hellaswag", '{"ctx": "a", "endings": ["b", "c"], "label": 2}', "answer 2; expected .* 0 to 1"),
        ("multiple_choice", '{"prompt": "a", "choices": ["b"], "answer": 0}', "at least two texts"),
        ("multiple_choice", "[1]", "not a JSON object"),
    ],
)
def test_files_without_the_needed_fields_are_refused(benchmark, line, expected):
    with pytest.raises(UserError, match=expected):
        benchmarks.examples_of(benchmark, "FILE", line)


def test_files_are_read_as_published():
    passage = "she gave him the book"
    for benchmark, line in (("lambada", passage), ("lambada_openai", json.dumps({"text": passage}))):
        assert benchmarks.examples_of(benchmark, "", line + "\n\n") == [Example("she gave him the", (" book",), 0)]
    assert len(benchmarks.examples_of("lambada_openai", "", '{"text": "a\u2028b c"}\r\n')) == 1  # one line of JSON
    line = '{"ctx": "a", "endings": ["b", "c"], "label": "1"}'
    assert benchmarks.examples_of("hellaswag", "", line) == [Example("a", (" b", " c"), 1)]
    line = '{"prompt": "a", "choices": ["b", "c"], "answer": "c"}'
    assert benchmarks.examples_of("multiple_choice", "", line) == [Example("a", (" b", " c"), 1)]
    published, made, protocol = benchmarks.text_of("enwik8", "é" * 2_500_001)
    assert published == made == "é" * 2_500_000 and protocol["detokenizer"] == "none"
    with pytest.raises(UserError, match="did you mean 'hellaswag'"):
        benchmarks.check("helaswag")


def test_texts_and_windows_that_do_not_fit_are_refused(run):
    for text, context, stride, expected in (
        ("the cat", 32, 32, "fewer than a window of 32"),
        (TEXT, 33, 1, "--context=33: expected 1 to 32"),
        (TEXT, 16, 17, "--stride=17: expected 1 to 16"),
    ):
        with pytest.raises(UserError, match=expected):
            scoring.score_text(run, text, context=context, stride=stride, batch=1)


def test_replicas_share_the_work_and_change_no_figure(run, virtual_devices):
    devices = virtual_devices[:2]
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = models.build(run.model.config)
    for ours, theirs in zip(model.trainable_variables, run.model.trainable_variables, strict=True):
        ours.assign(theirs.numpy())
    on_two = dataclasses.replace(run, model=model, strategy=strategy)
    alone, together = (scoring.score_text(on, TEXT, context=32, stride=9, batch=2).figures() for on in (run, on_two))
    assert together == pytest.approx(alone, rel=1e-6)
    prompts = ["the cat sat", "and the dog", "the dog sat on the log .", "the mat"]
    words = [Example(prompt, (" on the mat",), 0) for prompt in prompts]
    alone, together = (answers.score(on, words, batch=2) for on in (run, on_two))
    assert together == pytest.approx(alone, rel=1e-6)
