"""A run directory of an ALGPT2 of a few thousand weights, with its own tokenizer, for tests of code that reads runs."""

import models
from pipeline.data.format import tokenizer as tokenizers
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.run_directory import RunDirectory, as_json


def write(path):
    """Writes the run, at step 3, and returns its model."""
    tokenizer = tokenizers.train(["the cat sat on the mat and the dog sat on the log"] * 20, 265, "tiny")
    config = models.ALGPT2Config(
        layers=2, heads=2, width=32, context=48, embedding=16, vocabulary_size=tokenizer.vocabulary_size
    )
    model = models.build(config, seed=5)
    for variable in model.trainable_variables:
        variable.assign(variable * 4)
    directory = RunDirectory(str(path))
    directory.write_json("run.json", {"model": as_json(config)})
    directory.write("tokenizer.json", tokenizer.data.decode())
    checkpoints = Checkpoints(directory.join("checkpoints"), state_of(model))
    checkpoints.save(3, {})
    checkpoints.wait()
    return model
