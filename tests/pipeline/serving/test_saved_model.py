"""The exported SavedModel, in a process that knows only TensorFlow: the text of pipeline.generate, and no crash."""

import json
import math
import random
import re
import subprocess

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from models.decoding import generate
from models.sampling import Sampling
from pipeline.runs import trained_model
from tests.helpers.places import ROOT

MAX_TOKENS = 8
CALLS = """
import base64, json, sys
import tensorflow as tf
import tensorflow_text
model = tf.saved_model.load(sys.argv[1])
kinds = dict(max_tokens=tf.int32, temperature=tf.float32, top_k=tf.int32, top_p=tf.float32, seed=tf.int32)
for line in sys.stdin:
    name, texts, settings = json.loads(line)
    texts = tf.constant([base64.b16decode(text) for text in texts], tf.string)
    settings = {key: tf.constant(value, kinds[key]) for key, value in settings.items()}
    try:
        found = model.signatures[name](**{"generate": {"prompts": texts}, "score": {"texts": texts}}[name], **settings)
        answer = {key: value.numpy().tolist() for key, value in found.items()}
        answer["continuations"] = [text.decode() for text in answer.get("continuations", [])]
    except tf.errors.InvalidArgumentError as error:
        answer = {"error": str(error).partition("assertion failed: [")[2].partition("]")[0]}
    print(json.dumps(answer), flush=True)
assert not {"models", "pipeline", "tokenizers", "keras_hub"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def output(tiny_run_dir, python, tmp_path_factory):
    """The exported model's directory."""
    output = tmp_path_factory.mktemp("export") / "1"
    command = [python, "-m", "pipeline.export", f"--run_dir={tiny_run_dir}", "--format=saved_model"]
    subprocess.run([*command, f"--output={output}"], cwd=ROOT, check=True)
    return output


@pytest.fixture(scope="module")
def call(output, python):
    """Calls signatures of the exported model in one fresh process: [(name, texts as bytes, settings)] → answers."""

    def call(calls):
        lines = [json.dumps([name, [text.hex().upper() for text in texts], more]) for name, texts, more in calls]
        done = subprocess.run(
            [python, "-c", CALLS, output],
            cwd=output,
            input="\n".join(lines),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return call


@pytest.mark.slow
def test_the_documented_signatures_are_those_of_the_export(tiny_run_dir, output):
    page = (ROOT / "docs" / "using.md").read_text()
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if "| `" in line]
    argument = re.compile(r"`(\w+)` (\w+)(?: \[([^\]]*)\])?")
    config = trained_model.load(str(tiny_run_dir)).model.config
    sizes = {"N": -1, "1": 1, "context": config.context, "vocabulary": config.vocabulary_size}

    def documented(cell):
        found = {name: (kind, dims) for name, kind, dims in argument.findall(cell)}
        return {name: (kind, [sizes[dim] for dim in dims.split(", ") if dim]) for name, (kind, dims) in found.items()}

    def exported(arguments):
        return {
            name: (tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim])
            for name, info in arguments.items()
        }

    model = saved_model_pb2.SavedModel.FromString((output / "saved_model.pb").read_bytes())
    there = {name: known for name, known in model.meta_graphs[0].signature_def.items() if not name.startswith("__")}
    rows = {cells[0].strip("`"): cells[1:] for cells in table if cells[0].strip("`") in there}
    assert {name: [documented(cell) for cell in cells] for name, cells in rows.items()} == {
        name: [exported(known.inputs), exported(known.outputs)] for name, known in there.items()
    }


def settings(**changes):
    return {"max_tokens": MAX_TOKENS, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0} | changes


def hostile_prompts(count):
    draw = random.Random(11)
    parts = [
        lambda: draw.choice(
            ["the cat", " sat on", "the dog ", "\n", "  ", "\x00", "'s", "<|endoftext|>", "\ufeff"]
        ).encode(),
        lambda: draw.choice(
            ["שלום", "مرحبا", "\u202e", "👩‍👩‍👧", "🏳️‍🌈", "\U000e0001", "e\u0301", "\u2028", "𝟎"]
        ).encode(),
        lambda: draw.randbytes(draw.randint(1, 6)),
        lambda: chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])).encode(),
    ]
    whole = [
        b"",
        b"\x00",
        b"a" * 100_000,
        draw.randbytes(100_000),
        "\u202e".encode() * 30,
        b"\xed\xa0\x80",
        b" " * 5000,
    ]
    return [*whole, *(b"".join(draw.choice(parts)() for _ in range(draw.randint(1, 9))) for _ in range(count - 7))]


@pytest.mark.slow
def test_a_thousand_hostile_prompts_give_the_text_of_generate_or_a_clear_error(tiny_run_dir, call):
    prompts = hostile_prompts(1000)
    loaded = trained_model.load(str(tiny_run_dir))
    tokens = [loaded.tokenizer.encode(prompt.decode(errors="replace")) for prompt in prompts]
    fitting = [row for row in range(1000) if 0 < len(tokens[row]) <= 48 - MAX_TOKENS]
    # Those that fit go 16 at a time; the others alone, as one of them refuses its whole request.
    groups = [*(fitting[n : n + 16] for n in range(0, len(fitting), 16))]
    groups += [[row] for row in sorted(set(range(1000)) - set(fitting))]
    replies = call([("generate", [prompts[row] for row in group], settings()) for group in groups])
    made = generate(
        loaded.model,
        [tokens[row] for row in fitting],
        max_new_tokens=MAX_TOKENS,
        end_of_text=loaded.tokenizer.end_of_text,
        sampling=Sampling(temperature=0),
    )
    assert len(fitting) > 700
    expected = dict(zip(fitting, made, strict=True))
    for group, answer in zip(groups, replies, strict=True):
        if group[0] in expected:
            new = [expected[row] for row in group]
            texts = [loaded.tokenizer.decode(ids) for ids in new]
            assert answer == {"continuations": texts, "tokens": [len(ids) for ids in new]}
            continue
        (row,) = group
        length = len(tokens[row])
        if 0 < length < 48:
            assert answer["tokens"][0] <= 48 - length
        elif len(prompts[row]) > 48 * 32:
            assert answer == {"error": f"prompt 0 has {len(prompts[row])} bytes; expected at most 1536"}
        elif length:
            assert answer == {"error": f"prompt 0 has {length} tokens; expected at most 47 in a context of 48"}
        else:
            assert answer == {"error": "prompt 0 has 0 tokens; expected some text"}


@pytest.mark.slow
def test_samples_scores_and_refusals(tiny_run_dir, call):
    texts = ["the cat sat", "the dog\x00 and the שלום", ""]
    warm = settings(temperature=0.8, top_k=50, top_p=0.9, seed=7)
    encoded = [text.encode() for text in texts]
    sampled, scored, *refused = call(
        [
            ("generate", encoded[:2], warm),
            ("score", encoded, {}),
            ("generate", [b"a"], settings(max_tokens=0)),
            ("generate", [b"a"], settings(temperature=math.nan)),
            ("generate", [b"a"], settings(top_k=-1)),
            ("generate", [b"a"], settings(top_p=1.5)),
            ("generate", [b"a"] * 65, settings()),
            ("score", [b"a", b"ab " * 40], {}),
        ]
    )
    loaded = trained_model.load(str(tiny_run_dir))
    ids = [loaded.tokenizer.encode(text) for text in texts]
    end = loaded.tokenizer.end_of_text
    chosen = Sampling(temperature=0.8, top_k=50, top_p=0.9)
    for row in range(2):
        (new,) = generate(loaded.model, [ids[row]], max_new_tokens=MAX_TOKENS, end_of_text=end, sampling=chosen, seed=7)
        assert sampled["continuations"][row] == loaded.tokenizer.decode(new)
        logits = tf.nn.log_softmax(loaded.model(tf.constant([[end, *ids[row]][:-1]])))[0].numpy()
        nats = -sum(float(logits[place, token]) for place, token in enumerate(ids[row]))
        assert scored["tokens"][row] == len(ids[row])
        assert scored["negative_log_likelihood"][row] == pytest.approx(nats, rel=1e-4)
        assert scored["perplexity"][row] == pytest.approx(math.exp(nats / len(ids[row])), rel=1e-3)
    assert (scored["tokens"][2], scored["negative_log_likelihood"][2], scored["perplexity"][2]) == (0, 0, 1)
    assert [answer["error"] for answer in refused] == [
        "max_tokens=0: expected at least 1",
        "temperature=nan: expected 0 (greedy) or more",
        "top_k=-1: expected 0 (no limit) or more",
        "top_p=1.5: expected more than 0 and at most 1 (no limit)",
        "65 prompts in a request; expected at most 64",
        f"text 1 has {len(loaded.tokenizer.encode('ab ' * 40))} tokens; expected at most 48 in a context of 48",
    ]
