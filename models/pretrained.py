"""Reads and writes weights: Hugging Face's GPT-2 files, OpenAI's original TensorFlow checkpoint, and our own format.

Hugging Face's `GPT2LMHeadModel` directory is `config.json` and `model.safetensors`; its kernels are [inputs, outputs]
like ours, so only names differ. An ALGPT2 is written there as an equal GPT-2, or in its own form, with a code file that
transformers runs. Our own format is the same two files with our names, and keeps ALGPT2 as trained. OpenAI's download
is `hparams.json` and a TensorFlow checkpoint, whose kernels have a leading axis of 1.
"""

import dataclasses
import fnmatch
import json
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from models.algpt2_as_gpt2 import expanded
from models.config import ALGPT2Config, GPT2Config
from models.config_files import ALGPT2_FORM, CONFIG, FIXED, HPARAMS, SIZES, read_config
from models.weight_files import DTYPES, WEIGHTS, Weights, open_weights
from models.weight_names import huggingface_name, openai_name
from models.weight_specs import weight_specs

__all__ = ["CONFIG", "HPARAMS", "assign", "check", "load_into", "names_of", "openai_name", "read_config"]
__all__ += ["save_algpt2", "save_huggingface", "save_native", "tensors_of"]
Tensors = dict[str, np.ndarray]
ALGPT2_CODE = "modeling_algpt2.py"
LAYER = re.compile(r"\bh\.?(\d+)\b")  # in Hugging Face's names of a block's tensors, and OpenAI's
# Old versions of transformers saved these with the weights: the causal mask and the value of masked scores.
MASKS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")


def names_of(model: Any) -> dict[str, Any]:
    """Returns the model's variables by plain names: ``token_table``, ``block_00/mlp_input_kernel`` and so on."""
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
        A sentence on how exact the result is.

    Raises:
        ValueError: an ALGPT2 that no GPT-2 equals (its output layer's columns are not independent).
    """
    config, tensors, head, note = model.config, tensors_of(model), None, "The weights are the model's own."
    if isinstance(config, ALGPT2Config):
        tensors, head, note = expanded(tensors, config)
    named = {huggingface_name(name): tensor for name, tensor in tensors.items()}
    if head is not None:
        named["lm_head.weight"] = head
    kind = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "tie_word_embeddings": head is None}
    _write(directory, _described(config, end_of_text) | kind, named, {"format": "pt"})
    return note


def save_algpt2(model: Any, directory: str, *, end_of_text: int) -> str:
    """Writes an ALGPT2 in its own form: as small as it was trained, for transformers with ``trust_remote_code``.

    Returns:
        As ``save_huggingface``.

    Raises:
        ValueError: the model is not an ALGPT2.
    """
    config = model.config
    if not isinstance(config, ALGPT2Config):
        raise ValueError("the model is a GPT-2, which transformers has; expected an ALGPT2, or --format=huggingface")
    named = {huggingface_name(name): tensor for name, tensor in tensors_of(model).items()}
    own = {**ALGPT2_FORM, "embedding_size": config.embedding}
    _write(directory, _described(config, end_of_text) | own, named, {"format": "pt"})
    shutil.copyfile(
        os.path.join(os.path.dirname(__file__), "huggingface", ALGPT2_CODE), os.path.join(directory, ALGPT2_CODE)
    )
    return "The weights are the model's own; from_pretrained needs trust_remote_code=True."


def _described(config: GPT2Config, end_of_text: int) -> dict[str, Any]:
    """Returns the part of Hugging Face's config.json common to both models."""
    return {
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        **FIXED,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
    }


def save_native(model: Any, directory: str) -> None:
    """Writes the model in our own format, which is lossless for ALGPT2 too."""
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
    shutil.copymode(config, weights)  # save_file makes it readable only by its owner, whatever the umask


def check(directory: str, config: GPT2Config) -> str:
    """Compares the weights in ``directory`` with a model's settings, before loading and without TensorFlow.

    OpenAI's checkpoint, which needs TensorFlow, is checked on loading.

    Returns:
        A sentence on tensors that the model does not have; "" if there are none.

    Raises:
        ValueError: as ``load_into``.
    """
    if not os.path.exists(os.path.join(directory, HPARAMS)):
        return _check(open_weights(directory), config)
    names = os.listdir(directory)
    missing = [kind for kind in ("checkpoint", "*.index", "*.data-*") if not fnmatch.filter(names, kind)]
    if missing:
        raise ValueError(f"{directory}: {HPARAMS} without a TensorFlow checkpoint's {', '.join(missing)}")
    return ""


def load_into(model: Any, directory: str) -> str:
    """Loads the weights in ``directory`` into ``model``; a longer position table is cut to the model's context.

    Returns:
        As ``check``.

    Raises:
        ValueError: the files are incomplete, a tensor is missing, has another shape or holds NaN or infinity (the
            message names the first), or the output layer is not the token table. Nothing is assigned then.
    """
    weights = open_weights(directory)
    warning = _check(weights, model.config)
    assign(model, weights.origin, weights.read, weights.to_theirs)
    return warning


def assign(model: Any, origin: str, read: Callable[[str], np.ndarray], to_theirs: Callable[[str], str] = str) -> None:
    """Assigns weights to ``model`` as ``load_into`` does.

    Args:
        model: from ``models.build``.
        origin: where they come from, for messages.
        read: maps a tensor's name there to its float32 value, the token table without the vocabulary's padding.
        to_theirs: maps our name of a tensor to the name there.

    Raises:
        ValueError: a tensor has another shape, or holds NaN or infinity. Nothing is assigned then.
    """
    values = []
    for name, variable in names_of(model).items():
        value, shape = read(to_theirs(name)), tuple(variable.shape)
        _require_shape(origin, to_theirs(name), value.shape, name, shape, model.config)
        if not np.isfinite(value).all():
            raise ValueError(f"{origin}: {to_theirs(name)} holds NaN or infinity; expected finite numbers")
        if name == "position_table":
            value = value[: shape[0]]
        if name == "token_table":
            value = np.pad(value, [[0, shape[0] - value.shape[0]], [0, 0]])
        values.append((variable, value))
    for variable, value in values:
        variable.assign(value)


def _require_shape(
    origin: str, theirs: str, actual: tuple[int, ...], name: str, shape: tuple[int, ...], config: GPT2Config
) -> None:
    """Rejects a tensor that does not fit the variable ``name``, apart from padding rows and positions to cut."""
    expected = (config.known_vocabulary, shape[1]) if name == "token_table" else shape
    longer = name == "position_table" and len(actual) == 2 and actual[0] > shape[0] and actual[1:] == shape[1:]
    if actual != expected and not longer:
        raise ValueError(f"{origin}: {theirs} has shape {actual}; the model's {name} has {expected}")


def _check(weights: Weights, config: GPT2Config) -> str:
    used, origin = set(), weights.origin
    for name, variable in weight_specs(config).items():
        theirs = weights.to_theirs(name)
        if theirs not in weights.shapes:
            raise ValueError(f"{origin}: no tensor {theirs!r}")
        _require_shape(origin, theirs, weights.shapes[theirs], name, variable.shape, config)
        if weights.dtypes and weights.dtypes[theirs] not in DTYPES:
            raise ValueError(f"{origin}: {theirs} is {weights.dtypes[theirs]}; expected one of {', '.join(DTYPES)}")
        used.add(theirs)
    head, table = "lm_head.weight", weights.to_theirs("token_table")
    if head in weights.shapes and not np.array_equal(weights.read(head), weights.read(table), equal_nan=True):
        raise ValueError(
            f"{origin}: {head} differs from {table}; this model's output layer is its token table: expected the same "
            f"values in both, or no {head}"
        )
    unused = sorted(name for name in weights.shapes if name not in {head, *used} and not MASKS.fullmatch(name))
    return f"{origin}: not in the model, so not read: {_grouped(unused, config.layers)}" if unused else ""


def _grouped(names: list[str], layers: int) -> str:
    """Lists tensors briefly: extra layers by number, and the first three of the others."""
    of_layer = {name: int(number[1]) for name in names if (number := LAYER.search(name))}
    beyond = sorted({number for number in of_layer.values() if number >= layers})
    others = [name for name in names if of_layer.get(name, -1) < layers]
    which = f"layer {beyond[0]}" if len(beyond) == 1 else f"layers {beyond[0]} to {beyond[-1]}" if beyond else ""
    extra_layers = [f"{which}, where the configuration has {layers}"] if beyond else []
    return ", ".join([*extra_layers, *others[:3], *([f"{len(others) - 3} more"] if len(others) > 3 else [])])
