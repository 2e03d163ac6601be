"""The SavedModel of a trained run: signatures that take and return text, for programs without Python.

generate(prompts string [N], max_tokens, temperature, top_k, top_p, seed) → continuations string [N], tokens int32 [N]
score(texts string [N]) → tokens int32 [N], negative_log_likelihood float32 [N] in nats, perplexity float32 [N]
serving_default(tokens int32 [1, context]) → output_0 float32 [1, context, vocabulary], the logits of a whole window

A request's texts are processed one by one, each as in ``pipeline.generate``, so memory does not grow with their number.
Nothing uses XLA, which TensorFlow Serving does not enable by default; the prompt's pass has a graph for each of a few
widths.

Shapes: B batch (1), P width, E width of the token table, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from models import decoding, key_value_cache
from models.block import block
from models.loss import token_nll
from models.protocols import LanguageModel
from models.sampling import choose_by
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.serving.byte_pairs import BytePairs

MAX_TEXTS = 64  # per request
MAX_BYTES_PER_TOKEN = 32  # of context; English has 4 to 5, and one very long word takes seconds to tokenize
STRINGS = tf.TensorSpec([None], tf.string)


class TextModel(tf.Module):
    """A model and its tokenizer as functions of text.

    Raises:
        UserError: the tokenizer cannot be part of a graph.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer):
        super().__init__()
        self._model, self._end_of_text = model, tokenizer.end_of_text
        self.variables_of_the_model = [variable.value for variable in model.variables]
        self.byte_pairs = BytePairs(tokenizer)
        self.widths = _widths(model.config.context)

    def save(self, directory: str) -> None:
        """Writes the SavedModel."""
        window = self.serve.get_concrete_function(tf.TensorSpec([1, self._model.config.context], tf.int32, "tokens"))
        signatures = {"serving_default": window, "generate": self.generate, "score": self.score}
        tf.saved_model.save(self, directory, signatures=signatures)

    @tf.function(autograph=False)
    def serve(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns the logits of a whole window."""
        return self._model(tokens)

    @tf.function(
        autograph=False,
        input_signature=[
            STRINGS,
            *(tf.TensorSpec([], dtype) for dtype in (tf.int32, tf.float32, tf.int32, tf.float32, tf.int32)),
        ],
    )
    def generate(
        self,
        prompts: tf.Tensor,
        max_tokens: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
        seed: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Continues each prompt by up to ``max_tokens`` tokens, fewer if the context or the text ends."""
        context = self._model.config.context
        checks = [
            _expect(max_tokens >= 1, "max_tokens={}: expected at least 1", max_tokens),
            _expect(temperature >= 0, "temperature={}: expected 0 (greedy) or more", temperature),
            _expect(top_k >= 0, "top_k={}: expected 0 (no limit) or more", top_k),
            _expect((top_p > 0) & (top_p <= 1), "top_p={}: expected more than 0 and at most 1 (no limit)", top_p),
        ]
        ids = self._tokens(prompts, "prompt", checks, least=1, most=context - 1)
        table_VE = self._model.output_table()

        def pick(logits_BV: tf.Tensor, memory: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return choose_by(logits_BV, temperature, top_k, top_p, tf.stack([seed, step])), memory

        def continue_one(prompt: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            length = tf.size(prompt)
            new_tokens = tf.minimum(max_tokens, context - length)

            def prefill(tokens_BP: tf.Tensor) -> Any:
                return key_value_cache.prefill(
                    self._model, tokens_BP, length[None], new_tokens, table_VE, key_value_cache.write_plain
                )

            keys, values, logits_BV = self._at_width(prompt, prefill)
            width = tf.shape(keys)[4] - new_tokens
            tokens, counts = decoding.decode_loop(
                self._model,
                pick,
                tf.constant(0),
                logits_BV,
                keys,
                values,
                width=width,
                shift_B=(width - length)[None],
                new_tokens=new_tokens,
                end_of_text=self._end_of_text,
                table_VE=table_VE,
                write=key_value_cache.write_plain,
            )
            return self.byte_pairs.decode(tokens[0, : counts[0]]), counts[0]

        texts, counts = _one_by_one(ids, continue_one, (tf.string, tf.int32))
        return {"continuations": texts, "tokens": counts}

    @tf.function(autograph=False, input_signature=[STRINGS])
    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores each text's tokens, the first after an end-of-text; an empty text has a perplexity of 1."""
        ids = self._tokens(texts, "text", [], least=0, most=self._model.config.context)

        def score_one(labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            length = tf.size(labels)
            inputs = tf.concat([[self._end_of_text], labels], 0)[:-1]

            def nll(tokens_BP: tf.Tensor) -> tf.Tensor:
                width = tokens_BP.shape[1]
                labels_P = tf.ensure_shape(tf.pad(labels, [[0, width - length]]), [width])
                vocabulary = self._model.config.known_vocabulary
                table = tf.convert_to_tensor(self._model.table)
                each = token_nll(self._features(tokens_BP)[0], table, labels_P, vocabulary_size=vocabulary)
                return tf.reduce_sum(tf.where(tf.range(width) < length, each, 0.0))

            return length, self._at_width(inputs, nll)

        tokens, nats = _one_by_one(ids, score_one, (tf.int32, tf.float32))
        perplexity = tf.exp(tf.math.divide_no_nan(nats, tf.cast(tokens, tf.float32)))
        return {"tokens": tokens, "negative_log_likelihood": nats, "perplexity": perplexity}

    def _features(self, tokens_BP: tf.Tensor) -> tf.Tensor:
        """Returns the model's ``features`` without the residuals for gradients."""
        model = self._model

        def body(layer: Any, weights: Any, x: tf.Tensor) -> tuple[tf.Tensor]:
            return (block(x, weights, model.config, None, layer)[0],)

        (x,) = model.over_blocks(body, model.embed(tokens_BP, tf.range(tokens_BP.shape[1])))
        return model.finish(x)

    def _at_width(self, tokens: tf.Tensor, program: Callable) -> Any:
        """Returns ``program`` of the tokens, padded to the smallest width that holds them, int32 [1, P]."""

        def branch(width: int) -> Callable:
            return lambda: program(tf.reshape(tf.pad(tokens, [[0, width - tf.size(tokens)]]), [1, width]))

        index = tf.searchsorted(tf.constant(self.widths), tf.reshape(tf.size(tokens), [1]))[0]
        return tf.switch_case(index, [branch(width) for width in self.widths])

    def _tokens(
        self, texts: tf.Tensor, name: str, checks: Sequence[tf.Operation], *, least: int, most: int
    ) -> tf.RaggedTensor:
        """Tokenizes the texts; fails on too many, too long or too short ones."""
        largest = MAX_BYTES_PER_TOKEN * self._model.config.context
        count, lengths = tf.size(texts), tf.strings.length(texts)
        few = _expect(count <= MAX_TEXTS, f"{{}} {name}s in a request; expected at most {MAX_TEXTS}", count)
        sizes = _expect_each(lengths <= largest, name, lengths, f"bytes; expected at most {largest}")
        with tf.control_dependencies([*checks, few, sizes]):
            ids = self.byte_pairs.encode(tf.identity(texts))
        tokens = tf.cast(ids.row_lengths(), tf.int32)
        limit = f"at most {most} in a context of {self._model.config.context}"
        some = _expect_each(tokens >= least, name, tokens, "tokens; expected some text")
        not_too_many = _expect_each(tokens <= most, name, tokens, f"tokens; expected {limit}")
        with tf.control_dependencies([some, not_too_many]):
            return ids.with_values(tf.identity(ids.values))


def _widths(context: int) -> list[int]:
    """Returns the widths that prompts are padded to: doubling, and the whole context."""
    widths = [decoding.PROMPT_STEP]
    while widths[-1] < context:
        widths.append(2 * widths[-1])
    return [*(width for width in widths if width < context), context]


def _one_by_one(ids: tf.RaggedTensor, function: Callable, dtypes: tuple[tf.DType, ...]) -> Any:
    """Returns ``function`` of each row's tokens, stacked; one row at a time, to save memory."""
    specs = tuple(tf.TensorSpec([], dtype) for dtype in dtypes)
    return tf.map_fn(function, ids, fn_output_signature=specs, parallel_iterations=1)


def _expect(condition: tf.Tensor, sentence: str, value: Any) -> tf.Operation:
    return tf.debugging.Assert(condition, [tf.strings.format(sentence, value)])


def _expect_each(good_N: tf.Tensor, name: str, values_N: tf.Tensor, sentence: str) -> tf.Operation:
    """Fails with the number and value of the first text that is not good."""
    first = tf.argmin(tf.cast(tf.concat([good_N, [False]], 0), tf.int32), output_type=tf.int32)
    value = tf.concat([values_N, [0]], 0)[first]
    return _expect(tf.reduce_all(good_N), f"{name} {{}} has {{}} {sentence}", (first, value))
