"""Weights in and out: Hugging Face's GPT-2 files, OpenAI's original TensorFlow checkpoint, and our own format.

Hugging Face's `GPT2LMHeadModel` directory is `config.json` and `model.safetensors`; its kernels are [inputs, outputs]
as ours are, so only names differ. Our own format is the same two files with our names, for ALGPT2 as it is trained.
OpenAI's download is `hparams.json` and a TensorFlow checkpoint, whose kernels carry a leading axis of 1.
"""

import dataclasses
import difflib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from models.algpt2_as_gpt2 import expanded
from models.config import MLP_FACTOR, ALGPT2Config, GPT2Config
from models.weight_names import huggingface_name, openai_name

WEIGHTS, CONFIG, HPARAMS = "model.safetensors", "config.json", "hparams.json"
# What config.json may say only one way, because the model computes only that.
FIXED = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
_SIZES = {"n_layer": "layers", "n_head": "heads", "n_embd": "width"}
SIZES = {**_SIZES, "n_positions": "context", "vocab_size": "vocabulary_size"}
OPENAI_SIZES = {**_SIZES, "n_ctx": "context", "n_vocab": "vocabulary_size"}
IGNORED = {
    *("architectures", "attn_pdrop", "bos_token_id", "dtype", "embd_pdrop", "eos_token_id", "initializer_range"),
    *("model_type", "n_ctx", "n_inner", "n_special", "pad_token_id", "predict_special_tokens", "resid_pdrop"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    *("task_specific_params", "torch_dtype", "transformers_version", "use_cache"),
    *("_num_labels", "finetuning_task", "id2label", "label2id", "output_past"),
}
Tensors = dict[str, np.ndarray]


def names_of(model: Any) -> dict[str, Any]:
    """Returns the model's variables by plain names: ``token_table``, ``block_00/mlp_input_kernel``, …"""
    prefix = f"{model.name}/"
    return {variable.path.removeprefix(prefix): variable for variable in model.trainable_variables}


def tensors_of(model: Any) -> Tensors:
    """Returns the weights by plain names, without the vocabulary's padding."""
    tensors = {name: np.asarray(variable.numpy()) for name, variable in names_of(model).items()}
    tensors["token_table"] = tensors["token_table"][: model.config.known_vocabulary]
    return tensors


def save_huggingface(model: Any, directory: str, *, end_of_text: int) -> str:
    """Writes ``config.json`` and ``model.safetensors`` for ``GPT2LMHeadModel``.

    An ALGPT2 becomes a plain GPT-2: its block repeated, its linear layers multiplied into the tables.

    Returns:
        One sentence on how exact the result is.

    Raises:
        ValueError: an ALGPT2 that no GPT-2 equals (its output layer's columns are not independent).
    """
    config, tensors, head, note = model.config, tensors_of(model), None, "The weights are the model's own."
    if isinstance(config, ALGPT2Config):
        tensors, head, note = expanded(tensors, config)
    named = {huggingface_name(name): tensor for name, tensor in tensors.items()}
    if head is not None:
        named["lm_head.weight"] = head
    described = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        **FIXED,
        "tie_word_embeddings": head is None,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
    }
    _write(directory, described, named, {"format": "pt"})
    return note


def save_native(model: Any, directory: str) -> None:
    """Writes the model in our own format, from which it comes back without loss, ALGPT2 included."""
    described = {"model_type": model.config_class.__name__, **dataclasses.asdict(model.config)}
    _write(directory, described, tensors_of(model), {})


def _write(directory: str, described: dict[str, Any], tensors: Tensors, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    os.makedirs(directory, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    config, weights = os.path.join(directory, CONFIG), os.path.join(directory, WEIGHTS)
    with open(config, "w", encoding="utf-8") as file:
        json.dump(described, file, indent=2)
    save_file(contiguous, weights, metadata=metadata or None)
    shutil.copymode(config, weights)  # save_file lets nobody else read it, whatever the umask


def read_config(directory: str) -> GPT2Config:
    """Returns the settings of the model in ``directory``, of any of the three formats.

    Raises:
        ValueError: no such model, a key that is not known, or a value that the model here does not compute.
    """
    path = os.path.join(directory, HPARAMS)
    if os.path.exists(path):
        return _from_sizes(path, _read_json(path), OPENAI_SIZES)
    path = os.path.join(directory, CONFIG)
    described = _read_json(path)
    for kind in (GPT2Config, ALGPT2Config):
        if described.get("model_type") == kind.__name__:
            known = [field.name for field in dataclasses.fields(kind)]
            _refuse_unknown(path, described, {*known, "model_type"})
            return _described(kind, path, {name: described[name] for name in known if name in described})
    if described.get("model_type") != "gpt2":
        raise ValueError(f"{path}: model_type={described.get('model_type')!r}; expected 'gpt2'")
    _refuse_unknown(path, described, {*SIZES, *FIXED, *IGNORED})
    for key, only in FIXED.items():
        if described.get(key, only) != only:
            raise ValueError(f"{path}: {key}={described[key]!r}; this model computes {only!r} only")
    config = _from_sizes(path, described, SIZES)
    inner = described.get("n_inner")
    if inner not in (None, MLP_FACTOR * config.width):
        raise ValueError(f"{path}: n_inner={inner}; expected {MLP_FACTOR} · n_embd = {MLP_FACTOR * config.width}")
    return config


def _from_sizes(path: str, described: dict[str, Any], sizes: dict[str, str]) -> GPT2Config:
    missing = [key for key in sizes if key not in described]
    if missing:
        raise ValueError(f"{path}: no {', '.join(missing)}")
    return _described(GPT2Config, path, {ours: described[theirs] for theirs, ours in sizes.items()})


def _described(kind: type[GPT2Config], path: str, values: dict[str, Any]) -> GPT2Config:
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _refuse_unknown(path: str, described: dict[str, Any], known: set[str]) -> None:
    for key in sorted(set(described) - known - {"_name_or_path", "_commit_hash"}):
        close = difflib.get_close_matches(key, sorted(known), n=1)
        raise ValueError(f"{path}: unknown key {key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            described = json.load(file)
        if not isinstance(described, dict):
            raise ValueError(f"a {type(described).__name__}")
        return described
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the JSON description of a model ({error})") from None


def load_into(model: Any, directory: str) -> None:
    """Assigns the weights in ``directory`` to ``model``; a longer position table is cut to the model's context.

    Raises:
        ValueError: the file cannot be read whole, or a tensor is missing or of another shape; it names the first.
            Nothing is assigned then.
    """
    read, to_theirs = _reader(directory)
    assign(model, directory, read, to_theirs)


def assign(model: Any, origin: str, read: Callable[[str], np.ndarray], to_theirs: Callable[[str], str] = str) -> None:
    """Assigns weights to ``model`` as ``load_into`` does.

    Args:
        origin: where they come from, for messages.
        read: from a tensor's name there to its float32 value, the token table without the vocabulary's padding.
        to_theirs: from our name of a tensor to the one there.

    Raises:
        ValueError: as ``load_into``.
    """
    values = []
    for name, variable in names_of(model).items():
        value = read(to_theirs(name))
        shape = tuple(variable.shape)
        if name == "position_table" and value.shape[0] > shape[0]:
            value = value[: shape[0]]
        if name == "token_table" and value.shape == (model.config.known_vocabulary, shape[1]):
            value = np.pad(value, [[0, shape[0] - value.shape[0]], [0, 0]])
        if value.shape != shape:
            expected = (model.config.known_vocabulary, shape[1]) if name == "token_table" else shape
            raise ValueError(f"{origin}: {to_theirs(name)} has shape {value.shape}; the model's {name} has {expected}")
        values.append((variable, value))
    for variable, value in values:
        variable.assign(value)


def _reader(directory: str) -> tuple[Callable[[str], np.ndarray], Callable[[str], str]]:
    """Returns a function from a tensor's name in the files to its float32 value, and one from our names to theirs."""
    if os.path.exists(os.path.join(directory, HPARAMS)):
        return _openai_reader(directory)
    from safetensors import SafetensorError, safe_open

    path = os.path.join(directory, WEIGHTS)
    try:
        file = safe_open(path, framework="np")
        names = set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None

    def read(name: str) -> np.ndarray:
        if name not in names:
            raise ValueError(f"{path}: no tensor {name!r}")
        return file.get_tensor(name).astype(np.float32)

    if any(name.endswith("wte.weight") for name in names):
        bare = "wte.weight" in names  # the first files on the hub leave the prefix out
        return read, lambda name: huggingface_name(name).removeprefix("transformer." if bare else "")
    return read, lambda name: name


def _openai_reader(directory: str) -> tuple[Callable[[str], np.ndarray], Callable[[str], str]]:
    import tensorflow as tf

    from models.tf_checkpoints import plain_name

    with plain_name(directory) as folder:
        state = tf.train.get_checkpoint_state(folder)
        if state is None:
            raise ValueError(f"{directory}: {HPARAMS} without a TensorFlow checkpoint")
        newest = os.path.basename(state.model_checkpoint_path)  # it stands here, wherever it was written
        named = os.path.join(directory, newest)
        try:
            checkpoint = tf.train.load_checkpoint(os.path.join(folder, newest))
            names = checkpoint.get_variable_to_shape_map()
            tensors = {name: np.asarray(checkpoint.get_tensor(name), np.float32) for name in names}
        except (tf.errors.OpError, RuntimeError) as error:
            raise ValueError(f"{named}: not a whole TensorFlow checkpoint ({error})") from None

    def read(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"{named}: no tensor {name!r}")
        return tensors[name][0] if tensors[name].ndim == 3 else tensors[name]

    return read, openai_name
