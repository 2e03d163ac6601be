"""A study of made-up losses: its cells' run directories and data sets, for tests of what is made of them."""

import json

import numpy as np

from pipeline.data.format import manifest, records
from tools.study import run
from tools.study.cells import CORPORA, LARGER_WIDTH, StudyConfig, parts
from tools.study.recipes import ABLATIONS, ALGPT2_ABLATIONS, LARGER_RATES
from tools.study.store import Store

STUDY = StudyConfig(tokens=8192, grid_tokens=4096, seeds=3, batch=8, context=64)
BEST = {
    "adafactor": 2e-3,
    "frozen": 5e-4,
    "scaled": 0.32,
    "momentum": 0.16,
    "nanogpt": 4e-3,
    "muon": 2e-2,
    "algpt2": 4e-2,
    "algpt2_momentum": 8e-2,
    "larger_scaled": 8e-2,
    "larger_nanogpt": 2e-3,
    "larger_muon": 2e-2,
}


def all_cells(best=BEST):
    return dict.fromkeys(cell for rows in parts(STUDY, best).values() for cells in rows.values() for cell in cells)


def made_up_loss(cell):
    """AdamW and scaled Adafactor equal but for noise, the frozen one worse; E matters; a longer context is worse."""
    loss = 5.0 + 0.01 * ((cell.seed * 7 + len(cell.optimizer)) % 3) + 0.5 * (cell.optimizer == "frozen")
    of_algpt2 = {"scaled": "algpt2", "momentum": "algpt2_momentum"}
    of_larger = {name: f"larger_{name}" for name in LARGER_RATES}
    optimizer = "scaled" if cell.optimizer in ABLATIONS or cell.optimizer in ALGPT2_ABLATIONS else cell.optimizer
    others = of_algpt2 if cell.model == "algpt2" else of_larger if cell.width == LARGER_WIDTH else {}
    loss += 0.1 * abs(np.log2(cell.rate / BEST[others.get(optimizer, optimizer)]))
    loss += 0.2 * (cell.optimizer == "tables_3")
    loss += (0.3 + 0.1 * (cell.embedding == 24)) * (cell.model == "algpt2")
    return float(loss + 0.2 * (cell.context == 128))


def write_cell(folder, cell):
    home = folder / "cells" / cell.name
    home.mkdir(parents=True, exist_ok=True)  # a cell of a grid can be one of the ablations' too
    steps = [{"step": step, "tokens": 512 * step, "loss": 9 - step / 50} for step in range(1, 201)]
    (home / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    model = {"kind": "GPT2Config" if cell.model == "gpt2" else "ALGPT2Config", "layers": 2, "heads": 2, "width": 128}
    model |= {"context": cell.context, "vocabulary_size": 4096}
    validation = {"nats_per_token": made_up_loss(cell), "bits_per_byte": made_up_loss(cell) / 3}
    (home / "run.json").write_text(json.dumps({"model": model}))
    (home / "summary.json").write_text(json.dumps({"parameters": 2_000_000, "validation": validation}))


def write_data(folder, corpora=CORPORA, fingerprint="f"):
    """Manifests of 2,000 tokens to train on."""
    for corpus in corpora:
        counts = {"documents": 7, "utf8_bytes": 4_000, "words": 900, "word_rule": "whitespace", "tail": ()}
        shard = manifest.Shard(file="x", records=16, bytes=16 * records.record_bytes(124), crc32c="0")
        part = manifest.Part(tokens=2_000, records=16, padding_tokens=0, shards=(shard,), **counts)
        data = manifest.Manifest(
            corpus=manifest.Corpus(name=corpus, fingerprint=fingerprint, listing="l", seed=0, order="hash"),
            tokenizer=manifest.Tokenizer(name="t", fingerprint="f", vocabulary_size=4096, end_of_text=0),
            record=manifest.Record(context=124, bytes=records.record_bytes(124), packing="contiguous"),
            parts={"train": part, "validation": part},
        )
        home = folder / "data" / corpus
        home.mkdir(parents=True)
        (home / "manifest.json").write_text(data.dumps())


def stored(tmp_path):
    """A store in a folder of its own that holds the study's scale and no cell."""
    (tmp_path / "docs").mkdir(exist_ok=True)
    store = Store.load(tmp_path / "docs" / "study.json")
    run._claim(store, STUDY)
    return store
