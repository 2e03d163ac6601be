"""A model to continue from: ``train.pretrained`` names a run, an export, or a Hugging Face or OpenAI directory.

The directory describes the model in place of a gin file; values that gin binds must agree with it. TensorFlow and Keras
are imported only to load weights, so that a dry run is fast.
"""

import functools
import json
import sys
from typing import TYPE_CHECKING

from models.config import MODELS, GPT2Config, from_description
from models.protocols import LanguageModel
from pipeline import storage
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.errors import UserError
from pipeline.gin_files import Configuration

if TYPE_CHECKING:
    from pipeline.data.format.tokenizer import Tokenizer

FREE = {"dropout", "remat", "context"}  # settings that further training may change; the context can only be shortened
RUN = "run.json"
# Older Hugging Face directories and OpenAI's download have these instead of tokenizer.json, without added tokens.
PLAIN_VOCABULARIES = ("vocab.json", "encoder.json")


def model_config(configuration: Configuration, settings: TrainConfig) -> GPT2Config:
    """Returns the configuration of the model to train: gin's, on top of that of ``settings.pretrained`` if it is set.

    Raises:
        UserError: no model is there, its kind is not ``settings.model``, or gin's values contradict it.
    """
    directory = settings.pretrained
    if directory is None:
        return gin_reader.chosen(configuration, MODELS, settings.model, "train.model")
    config = read_config(directory)
    kind = next(name for name, surface in MODELS.items() if surface is type(config))
    if settings.model != kind:
        back = f"; expected train.model = {kind!r}"
        if kind == "gpt2" and storage.size(storage.join(directory, RUN)) is None:
            back = "; an ALGPT2 comes back from its run, or exported with --format=native"
        raise UserError(f"train.model = {settings.model!r}, but {directory} holds a model of kind {kind!r}{back}")
    _check_weights(directory, config)
    surface, bound = type(config), configuration.bound(type(config))
    for name, value in vars(config).items():
        if name not in bound:
            configuration.bind(surface, name, value, f"train.pretrained = {directory}")
            continue
        bound_value, origin = bound[name]
        if name == "context" and bound_value > value:
            raise UserError(f"{origin}: context = {bound_value}; the model in {directory} has only {value} positions")
        if name not in FREE and bound_value != value:
            raise UserError(f"{origin}: {name} = {bound_value}, but the model in {directory} has {value}; leave it out")
    return configuration.get(surface)


def read_config(directory: str) -> GPT2Config:
    """Returns the configuration of the model in ``directory``; UserError if none is usable."""
    if storage.size(storage.join(directory, RUN)) is not None:
        try:
            return from_description(json.loads(storage.read_bytes(storage.join(directory, RUN)))["model"])
        except (ValueError, KeyError, TypeError):
            damaged = f"{RUN} is damaged; expected the one that a run wrote"
            raise UserError(f"train.pretrained = {directory}: {damaged}") from None
    if storage.is_remote(directory):
        raise UserError(
            f"train.pretrained = {directory}: no {RUN} there; expected a run, or a directory on this machine"
        )
    from models import pretrained as files

    if all(storage.size(storage.join(directory, name)) is None for name in (files.CONFIG, files.HPARAMS)):
        expected = f"{RUN} (a run), {files.CONFIG} (Hugging Face, pipeline.export) or {files.HPARAMS} (OpenAI)"
        raise UserError(f"train.pretrained = {directory}: no model there; expected {expected}")
    try:
        return files.read_config(directory)
    except ValueError as error:
        raise UserError(f"train.pretrained: {error}") from None


def _check_weights(directory: str, config: GPT2Config) -> None:
    """Rejects weights that cannot be loaded, as far as can be checked without TensorFlow."""
    from models import pretrained as files

    if storage.size(storage.join(directory, RUN)) is not None:
        folder = "best" if storage.size(storage.join(directory, "best.json")) is not None else "checkpoints"
        saved = storage.list_files(storage.join(directory, folder)) or []
        if not any(path.endswith("/commit.json") for path, _ in saved):
            raise UserError(f"train.pretrained = {directory}: no whole checkpoint there; expected a run that saved one")
        return
    try:
        _warn_once(files.check(directory, config))
    except ValueError as error:
        raise UserError(f"train.pretrained: {error}") from None


@functools.cache
def _warn_once(sentence: str) -> None:
    if sentence:
        print(f"warning: train.pretrained: {sentence}", file=sys.stderr)


def load_into(model: LanguageModel, directory: str) -> None:
    """Loads a run's newest checkpoint, or a file's weights; UserError names the first tensor that does not fit."""
    from models import pretrained as files

    try:
        if storage.size(storage.join(directory, RUN)) is None:
            _warn_once(files.load_into(model, directory))
            return
        from pipeline.runs import trained_model

        files.assign(model, directory, files.tensors_of(trained_model.load(directory).model).__getitem__)
    except ValueError as error:
        raise UserError(f"train.pretrained: {error}") from None


def check_tokenizer(directory: str, tokenizer: "Tokenizer") -> None:
    """Rejects data whose tokenizer differs from the model's, if it has one; names the first token that differs.

    Tokenizers with equal tokens may still encode a text differently: lower-cased, with a leading space, or split by
    another pattern.
    """
    from pipeline.data.format.fidelity import PROBE
    from pipeline.data.format.tokenizer import Tokenizer

    path, theirs = _vocabulary(directory)
    ours = {index: token for token, index in tokenizer.oracle.get_vocab().items()}
    for index in sorted(theirs if path.endswith(PLAIN_VOCABULARIES) else {*theirs, *ours}):
        if theirs and theirs.get(index) != ours.get(index):
            raise UserError(
                f"train.pretrained = {directory}: token {index} is {theirs.get(index)!r} there and {ours.get(index)!r} "
                f"in the data (tokenizer {tokenizer.name}); expected shards made with {path}"
            )
    if not path.endswith("tokenizer.json"):
        return
    if Tokenizer(path, storage.read_bytes(path)).encode(PROBE) != tokenizer.encode(PROBE):
        raise UserError(
            f"train.pretrained = {directory}: its tokenizer has the tokens of the data's (tokenizer {tokenizer.name}), "
            "but gives a text other ids, by another normalizer or pre-tokenizer; expected shards made with " + path
        )


def _vocabulary(directory: str) -> tuple[str, dict[int, str]]:
    """Returns the model's vocabulary file, and its tokens by id; {} without one."""
    from pipeline.data.format.tokenizer import Tokenizer

    for name in ("tokenizer.json", *PLAIN_VOCABULARIES):
        path = storage.join(directory, name)
        if storage.size(path) is None:
            continue
        data = storage.read_bytes(path)
        try:
            ids = Tokenizer(path, data).oracle.get_vocab() if name == "tokenizer.json" else dict(json.loads(data))
            return path, {index: token for token, index in ids.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: expected a vocabulary, tokens with their ids ({error})") from None
    return "", {}
