"""A model to go on from: ``train.pretrained`` names a run, an export, or a directory of Hugging Face's or OpenAI's.

What the directory says of the model stands in for a gin file: values that gin binds itself are compared with it.
Light until weights are loaded, so that a dry run answers at once.
"""

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

from models.config import ALGPT2Config, GPT2Config
from pipeline import storage
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.data.format.tokenizer import Tokenizer

FREE = {"dropout", "remat", "context"}  # what training on may change; the context may only become shorter
RUN = "run.json"
# In Hugging Face's older directories and OpenAI's download, in place of tokenizer.json; added tokens are not in them.
PLAIN_VOCABULARIES = ("vocab.json", "encoder.json")


def model_config(settings: TrainConfig) -> GPT2Config:
    """Returns the configuration of the model to train: gin's, over that of ``settings.pretrained`` where it is set.

    Raises:
        UserError: no model there, one of another kind than ``settings.model``, or one that gin's values contradict.
    """
    directory = settings.pretrained
    if directory is None:
        return gin_reader.chosen(gin_reader.MODELS, settings.model, "train.model")
    found = read_config(directory)
    kind = next(name for name, surface in gin_reader.MODELS.items() if gin_reader.SURFACES[surface] is type(found))
    if settings.model != kind:
        back = ""
        if kind == "gpt2" and storage.size(storage.join(directory, RUN)) is None:
            back = "; an ALGPT2 comes back from its run, or exported with --format=native"
        raise UserError(f"train.model = {settings.model!r}, but {directory} holds a model of kind {kind!r}{back}")
    _check_weights(directory, found)
    surface, bound = type(found), gin_reader.bound(type(found))
    for name, value in vars(found).items():
        if name not in bound:
            gin_reader.bind(surface, name, value, f"train.pretrained = {directory}")
            continue
        wanted, origin = bound[name]
        if name == "context" and wanted > value:
            raise UserError(f"{origin}: context = {wanted}; the model in {directory} has {value} positions at most")
        if name not in FREE and wanted != value:
            raise UserError(f"{origin}: {name} = {wanted}, but the model in {directory} has {value}; leave it out")
    return gin_reader.get(surface)


def read_config(directory: str) -> GPT2Config:
    """Returns the configuration of the model in ``directory``; UserError where there is none that can be used."""
    if storage.size(storage.join(directory, RUN)) is not None:
        return _run_config(directory)
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


def _run_config(directory: str) -> GPT2Config:
    try:
        described = dict(json.loads(storage.read_bytes(storage.join(directory, RUN)))["model"])
        kinds = {kind.__name__: kind for kind in (GPT2Config, ALGPT2Config)}
        return kinds[described.pop("kind")](**described)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"train.pretrained = {directory}: {RUN} is damaged; expected the one that a run wrote"
        ) from None


def _check_weights(directory: str, found: GPT2Config) -> None:
    """Refuses weights that could not be loaded, as far as this is known before TensorFlow is imported."""
    from models import pretrained as files

    if storage.size(storage.join(directory, RUN)) is not None:
        folder = "best" if storage.size(storage.join(directory, "best.json")) is not None else "checkpoints"
        saved = storage.list_files(storage.join(directory, folder)) or []
        if not any(path.endswith("/commit.json") for path, _ in saved):
            raise UserError(f"train.pretrained = {directory}: no whole checkpoint there; expected a run that saved one")
        return
    try:
        _say_once(files.check(directory, found))
    except ValueError as error:
        raise UserError(f"train.pretrained: {error}") from None


@functools.cache
def _say_once(sentence: str) -> None:
    if sentence:
        print(f"warning: train.pretrained: {sentence}", file=sys.stderr)


def load_into(model: Any, directory: str) -> None:
    """Assigns the weights in ``directory``, a run's newest checkpoint or a file, to ``model``.

    Raises:
        UserError: a file that is not whole, or the first tensor that is missing or of another shape.
    """
    from models import pretrained as files

    try:
        if storage.size(storage.join(directory, RUN)) is None:
            _say_once(files.load_into(model, directory))
            return
        from pipeline.runs import trained_model

        files.assign(model, directory, files.tensors_of(trained_model.load(directory).model).__getitem__)
    except ValueError as error:
        raise UserError(f"train.pretrained: {error}") from None


def check_tokenizer(directory: str, tokenizer: "Tokenizer") -> None:
    """Refuses data of another tokenizer than the one beside the model, where there is one; names the first token.

    The same tokens may still be given to other pieces of a text: lower-cased, behind a space, cut by another pattern.
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
    """Returns the file beside the model that says which tokens there are, and the tokens by id; {} without one."""
    from pipeline.data.format.tokenizer import Tokenizer

    for name in ("tokenizer.json", *PLAIN_VOCABULARIES):
        path = storage.join(directory, name)
        if storage.size(path) is None:
            continue
        data = storage.read_bytes(path)
        try:
            known = Tokenizer(path, data).oracle.get_vocab() if name == "tokenizer.json" else dict(json.loads(data))
            return path, {index: token for token, index in known.items()}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: expected a vocabulary, tokens with their ids ({error})") from None
    return "", {}
