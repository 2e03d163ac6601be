#!/bin/sh
# Wrote the files of this folder, by the code of commit 483f5fc (before the rooms were rebuilt), from its checkout:
#
#     sh make.sh FOLDER
#
# corpus/ is of made-up words. The run is of 8 steps, cut back to its checkpoint of step 4, and metrics.jsonl has the
# losses of all of them. tests/pipeline/test_before_the_house.py repeats the commands with the code of today.
set -e
folder=$1
mkdir -p "$folder/corpus"
python - "$folder/corpus" <<'PYTHON'
import pathlib, random, sys
chance = random.Random(20)
syllables = [a + b for a in "bdklmnrst" for b in "aeiou"]
words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(120)]
for number in range(24):
    lines = [" ".join(chance.choices(words, range(len(words), 0, -1), k=9)) for _ in range(10)]
    pathlib.Path(sys.argv[1], f"{number:02d}.txt").write_text(".\n".join(lines) + ".\n")
PYTHON
cd "$folder"
python -m pipeline.tokenizer --gin_file=datasets/text.gin --source=corpus --size=320 --output=tokenizer.json
python -m pipeline.shard --gin_file=datasets/text.gin --source=corpus --output=data \
  --gin_param=shard.tokenizer=tokenizer.json --gin_param=shard.context=32 --gin_param=shard.shards=2
python -m pipeline.train --gin_file=gpt2.gin --tpu=virtual-2 --data=data --run_dir=run \
  --gin_param=GPT2.layers=2 --gin_param=GPT2.heads=2 --gin_param=GPT2.width=16 --gin_param=GPT2.context=32 \
  --gin_param=train.compute_dtype=float32 --gin_param=train.global_batch=8 --gin_param=train.microbatch=2 \
  --gin_param=train.steps=8 --gin_param=train.warmup_steps=2 --gin_param=train.steps_per_loop=1 \
  --gin_param=train.checkpoint_every=4 --gin_param=train.evaluate_every=8 --gin_param=train.wandb=off \
  --gin_param=Adafactor.learning_rate=1e-2
mv run/metrics.jsonl .
rm -r run/checkpoints/step-00000008 run/tensorboard run/summary.json
python -m pipeline.export --run_dir=run --format=native --output=native
