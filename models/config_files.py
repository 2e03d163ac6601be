"""Reads a model's configuration: Hugging Face's or our own ``config.json``, or OpenAI's ``hparams.json``.

Imports only the standard library.
"""

import dataclasses
import difflib
import json
import os
from typing import Any

from models.config import MLP_FACTOR, ALGPT2Config, GPT2Config

CONFIG, HPARAMS = "config.json", "hparams.json"
# Settings with one allowed value: the model computes nothing else.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# Other names for the activation: the tanh approximation of GELU, to float32's rounding.
SAME_ACTIVATION = ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast")
WHY = {
    "tie_word_embeddings": "; an ALGPT2 that was exported to Hugging Face's format has an output table of its own, and "
    "comes back from its run, or exported with --format=native or huggingface_algpt2"
}
# ALGPT2 in its own form: the settings and the code of models/huggingface/modeling_algpt2.py.
ALGPT2_FORM = {
    "model_type": "algpt2",
    "architectures": ["ALGPT2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "modeling_algpt2.ALGPT2Config",
        "AutoModelForCausalLM": "modeling_algpt2.ALGPT2ForCausalLM",
    },
}
# Settings that would change the model unless they are null or empty.
EMPTY = ("auto_map", "compression_config", "per_layer_config", "pruned_heads", "quantization_config")
_SIZES = {"n_layer": "layers", "n_head": "heads", "n_embd": "width"}
SIZES = {**_SIZES, "n_positions": "context", "vocab_size": "vocabulary_size"}
OPENAI_SIZES = {**_SIZES, "n_ctx": "context", "n_vocab": "vocabulary_size"}
# Other models' names for the sizes, which transformers accepts for GPT-2 too.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# Keys that transformers 4.0 to 5.x write and that change no logits; keys with a leading underscore are ignored too.
IGNORED = {
    # where the file comes from, and what runs it
    *("architectures", "attn_implementation", "dtype", "finetuning_task", "model_type", "name_or_path", "output_past"),
    *("problem_type", "reorder_and_upcast_attn", "task_specific_params", "tf_legacy_loss", "tokenizer_class"),
    *("torch_dtype", "torchscript", "transformers_version", "use_bfloat16", "use_cache", "xla_device"),
    # training
    *("attn_pdrop", "embd_pdrop", "gradient_checkpointing", "initializer_range", "resid_pdrop"),
    # other heads and model types
    *("chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size", "id2label", "is_decoder"),
    *("is_encoder_decoder", "label2id", "n_ctx", "n_inner", "n_special", "num_labels", "predict_special_tokens"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    "tie_encoder_decoder",
    # outputs
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores", "return_dict"),
    "return_dict_in_generate",
    # tokens
    *("bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id"),
    *("forced_eos_token_id", "mask_token_id", "pad_token_id", "prefix", "sep_token_id", "unk_token_id"),
    # generation
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "bad_words_ids"),
    *("begin_suppress_tokens", "cache_config", "cache_implementation", "compile_config", "constraints"),
    *("disable_compile", "diversity_penalty", "do_sample", "dola_layers", "early_stopping"),
    *("encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff"),
    *("exponential_decay_length_penalty", "force_words_ids", "forced_decoder_ids", "guidance_scale", "is_assistant"),
    *("length_penalty", "low_memory", "max_length", "max_matching_ngram_size", "max_new_tokens", "max_time"),
    *("min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "penalty_alpha"),
    *("prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits"),
    *("repetition_penalty", "sequence_bias", "stop_strings", "suppress_tokens", "target_lookbehind", "temperature"),
    *("token_healing", "top_h", "top_k", "top_p", "typical_p", "watermarking_config"),
}


def read_config(directory: str) -> GPT2Config:
    """Returns the settings of the model in ``directory``, in any of the three formats.

    Raises:
        ValueError: no such model, an unknown key, or a value that this model does not compute.
    """
    path = os.path.join(directory, HPARAMS)
    if os.path.exists(path):
        return _from_sizes(path, _read_json(path), OPENAI_SIZES)
    path = os.path.join(directory, CONFIG)
    described = _read_json(path)
    for kind in (GPT2Config, ALGPT2Config):
        if described.get("model_type") == kind.__name__:
            fields = [field.name for field in dataclasses.fields(kind)]
            _reject_unknown(path, described, {*fields, "model_type"})
            return _build_config(kind, path, {name: described[name] for name in fields if name in described})
    if described.get("model_type") == ALGPT2_FORM["model_type"]:
        own = {key: described.pop(key) for key in ("auto_map", "embedding_size") if key in described}
        if "embedding_size" not in own:
            raise ValueError(f"{path}: no embedding_size")
        wide = dataclasses.asdict(_from_huggingface(path, described))
        return _build_config(ALGPT2Config, path, wide | {"embedding": own["embedding_size"]})
    if described.get("model_type") != "gpt2":
        raise ValueError(f"{path}: model_type={described.get('model_type')!r}; expected 'gpt2' or 'algpt2'")
    return _from_huggingface(path, described)


def _from_huggingface(path: str, described: dict[str, Any]) -> GPT2Config:
    described = {key: value for key, value in described.items() if not key.startswith("_")}
    for alias, key in ALIASES.items():
        value = described.pop(alias, None)
        if value is not None and described.setdefault(key, value) != value:
            raise ValueError(f"{path}: {alias}={value!r} and {key}={described[key]!r}; expected one of them")
    _reject_unknown(path, described, {*SIZES, *FIXED, *EMPTY, *IGNORED})
    for key in EMPTY:
        if described.get(key):
            raise ValueError(f"{path}: {key}={described[key]!r}; this model has none")
    for key, only in FIXED.items():
        value = described.get(key, only)
        if value != only and not (key == "activation_function" and value in SAME_ACTIVATION):
            raise ValueError(f"{path}: {key}={value!r}; this model computes {only!r} only{WHY.get(key, '')}")
    config = _from_sizes(path, described, SIZES)
    inner = described.get("n_inner")
    if inner not in (None, MLP_FACTOR * config.width):
        raise ValueError(f"{path}: n_inner={inner}; expected {MLP_FACTOR} · n_embd = {MLP_FACTOR * config.width}")
    return config


def _from_sizes(path: str, described: dict[str, Any], sizes: dict[str, str]) -> GPT2Config:
    missing = [key for key in sizes if key not in described]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)}")
    return _build_config(GPT2Config, path, {ours: described[theirs] for theirs, ours in sizes.items()})


def _build_config(kind: type[GPT2Config], path: str, values: dict[str, Any]) -> GPT2Config:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _reject_unknown(path: str, described: dict[str, Any], known: set[str]) -> None:
    for key in sorted(set(described) - known):
        close = difflib.get_close_matches(key, sorted(known), n=1)
        raise ValueError(f"{path}: unknown key {key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            described = json.load(file)
        if not isinstance(described, dict):
            raise ValueError(f"a {type(described).__name__}")
        return described
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected the JSON description of a model ({error})") from None
