"""Trains a small model as one of several workers, or alone, and saves its weights and the records it read.

python tests/tools/worker.py DATA OUTPUT.npz NUMBER [ADDRESS …]     # NUMBER of the worker among the addresses
"""

import json
import os
import sys

DATA, OUTPUT, NUMBER, *ADDRESSES = sys.argv[1:]
if ADDRESSES:
    cluster = {"cluster": {"worker": ADDRESSES}, "task": {"type": "worker", "index": int(NUMBER)}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import models  # noqa: E402
from models.config import GPT2Config  # noqa: E402
from pipeline.data import inputs, manifest  # noqa: E402
from pipeline.training import batch  # noqa: E402
from pipeline.training.checkpoints import Checkpoints, state_of  # noqa: E402
from pipeline.training.optimizers import SGDConfig  # noqa: E402
from pipeline.training.schedules import Schedule  # noqa: E402
from pipeline.training.step import make_train_step, strategy_options  # noqa: E402

STEPS, GLOBAL_BATCH, CONTEXT = 6, 8, 32


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if ADDRESSES else tf.distribute.get_strategy()
    data, replicas = manifest.load(DATA), strategy.num_replicas_in_sync
    config = GPT2Config(layers=1, heads=2, width=16, context=CONTEXT, vocabulary_size=data.tokenizer.vocabulary_size)
    plan = batch.plan(global_batch=GLOBAL_BATCH, replicas=replicas, microbatch=2, context=CONTEXT)
    with strategy.scope():
        model = models.build(config, compute_dtype="float32", seed=3)
        optimizer = SGDConfig(learning_rate=0.3, momentum=0.9).build(Schedule(steps=STEPS))
        optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, plan, clip_norm=1.0, **strategy_options(strategy))

    def read(context):
        options = {"global_batch": GLOBAL_BATCH, "context": CONTEXT, "replicas": replicas, "start_step": 0, "seed": 5}
        return inputs.train_dataset(DATA, data, input_context=context, **options)

    @tf.function
    def run(elements):
        return strategy.run(step, args=(elements,))["loss"]

    indices, losses = [], []
    batches = iter(strategy.distribute_datasets_from_function(read))
    for _ in range(STEPS):
        elements = next(batches)
        indices.extend(np.asarray(strategy.experimental_local_results(elements["index"])[0]))
        losses.append(float(strategy.experimental_local_results(run(elements))[0]))
    state = state_of(model, optimizer)
    keeper = Checkpoints(f"{OUTPUT}.checkpoints", state, writes=NUMBER == "0")
    keeper.save(STEPS, {})
    keeper.wait()
    weights = {name.replace("/", "|"): variable.numpy() for name, variable in state.items()}
    np.savez(OUTPUT, indices=indices, losses=losses, **weights)


main()
