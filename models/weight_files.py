"""The tensors of a directory by name: safetensors in one or more files, or OpenAI's TensorFlow checkpoint.

For safetensors it reads names, shapes and dtypes from the headers, without TensorFlow, so a dry run can check them.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.config_files import HPARAMS
from models.weight_names import huggingface_name, openai_name

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Weights:
    """Tensors that can be read one by one.

    Args:
        origin: the file or directory that they come from, for messages.
        shapes: of each tensor, by its name there.
        dtypes: of each tensor, as safetensors spells them; {} if TensorFlow reads them.
        read: maps a tensor's name there to its float32 value.
        to_theirs: maps our name of a tensor to the name there.
    """

    origin: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    read: Callable[[str], np.ndarray]
    to_theirs: Callable[[str], str]


def open_weights(directory: str) -> Weights:
    """Returns the tensors of a directory.

    Raises:
        ValueError: no readable weights, or incomplete files; the message names them.
    """
    if os.path.exists(os.path.join(directory, HPARAMS)):
        return _openai(directory)
    whole, index = os.path.join(directory, WEIGHTS), os.path.join(directory, INDEX)
    if os.path.exists(whole):
        file = _open(whole)
        origin, places = whole, dict.fromkeys(file.keys(), file)
    elif os.path.exists(index):
        origin, places = index, _open_shards(directory, index)
    else:
        raise ValueError(_no_weights_message(directory))

    def read(name: str) -> np.ndarray:
        return places[name].get_tensor(name).astype(np.float32)

    headers = {name: file.get_slice(name) for name, file in places.items()}
    shapes = {name: tuple(header.get_shape()) for name, header in headers.items()}
    dtypes = {name: header.get_dtype() for name, header in headers.items()}
    return Weights(origin, shapes, dtypes, read, _huggingface_naming(shapes))


def _huggingface_naming(names: Mapping[str, Any]) -> Callable[[str], str]:
    """Returns a function from our names to those of the files, which may be ours (the native format).

    Raises:
        ValueError: the token table is there under both of Hugging Face's names.
    """
    if "token_table" in names:
        return str
    if {"wte.weight", "transformer.wte.weight"} <= names.keys():
        raise ValueError("wte.weight and transformer.wte.weight are both there: expected one model's weights")
    bare = "wte.weight" in names  # the first files on the hub, and GPT2Model's, omit the prefix
    return lambda name: huggingface_name(name).removeprefix("transformer." if bare else "")


def _open(path: str) -> Any:
    import ml_dtypes  # noqa: F401  makes bfloat16 a dtype of numpy
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(f"{path}: a pointer of Git LFS in place of the weights; `git lfs pull` fetches them")
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open_shards(directory: str, index: str) -> dict[str, Any]:
    """Returns the open file that holds each tensor of the index, by tensor name."""
    try:
        with open(index, encoding="utf-8-sig") as file:
            places = json.load(file)["weight_map"]
        if not places or not all(isinstance(name, str) and os.path.basename(name) == name for name in places.values()):
            raise ValueError("weight_map does not name a file of the directory for each tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: expected the index of sharded weights ({type(error).__name__}: {error})") from None
    files = {}
    for name in sorted(set(places.values())):
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            raise ValueError(f"{index}: it names {name}, which is not there; expected all {len(set(places.values()))}")
        files[name] = _open(path)
    tensors_of_file = {name: set(file.keys()) for name, file in files.items()}
    for tensor, name in places.items():
        if tensor not in tensors_of_file[name]:
            raise ValueError(f"{index}: it says that {name} holds {tensor!r}, which it does not")
    return {tensor: files[name] for tensor, name in places.items()}


def _no_weights_message(directory: str) -> str:
    """Returns the error for a directory without weights, or with weights in an unsupported format."""
    endings = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".safetensors")
    try:
        others = sorted(name for name in os.listdir(directory) if name.endswith(endings))
    except OSError:  # a directory may allow opening its files but not listing them
        others = []
    if not others:
        return f"{directory}: no weights there; expected {WEIGHTS}, or {INDEX} with the files that it names"
    return (
        f"{directory}: its weights are in {others[0]}; expected {WEIGHTS}, which transformers writes: "
        f"GPT2LMHeadModel.from_pretrained({directory!r}).save_pretrained('NEW')"
    )


def _openai(directory: str) -> Weights:
    import tensorflow as tf

    from models.tf_checkpoints import plain_name

    with plain_name(directory) as folder:
        state = tf.train.get_checkpoint_state(folder)
        if state is None:
            raise ValueError(f"{directory}: {HPARAMS} without a TensorFlow checkpoint")
        newest = os.path.basename(state.model_checkpoint_path)  # in this directory, wherever it was written
        named = os.path.join(directory, newest)
        try:
            checkpoint = tf.train.load_checkpoint(os.path.join(folder, newest))
            names = checkpoint.get_variable_to_shape_map()
            tensors = {name: np.asarray(checkpoint.get_tensor(name), np.float32) for name in names}
        except (tf.errors.OpError, RuntimeError) as error:
            raise ValueError(f"{named}: not a whole TensorFlow checkpoint ({error})") from None
    tensors = {name: value[0] if value.ndim == 3 else value for name, value in tensors.items()}
    return Weights(named, {name: value.shape for name, value in tensors.items()}, {}, tensors.__getitem__, openai_name)
