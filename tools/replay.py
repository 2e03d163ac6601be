"""Shows the text of the records behind an incident: a batch whose update was skipped.

    python -m tools.replay --run_dir=… --data=… [--incident=STEP]

Rereads exactly those records, with one seek each, checks them, and prints their position and text. The default is the
newest incident.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from absl import flags

from pipeline import cli
from pipeline.errors import UserError

FLAGS = flags.FLAGS


class Replayed(NamedTuple):
    """A record of an incident: its index in the order, its file and row, its fault, and its token ids."""

    place: int
    file: str
    row: int
    fault: str
    ids: list[int]


def replay(data: str, incident: dict[str, Any], *, seed: int, context: int) -> Iterator[Replayed]:
    """Yields the records of an incident, a line of incidents.jsonl, in the order of the batch.

    ``data`` is a directory of shards, local or gs://; the seed and the context, in tokens, are the run's.
    """
    import tensorflow as tf

    from pipeline import storage
    from pipeline.data.format import manifest as manifests
    from pipeline.data.format import records
    from pipeline.data.reading import record_order

    manifest = manifests.load(data)
    part = manifest.part("train")
    order, sequences = record_order.RecordOrder(part, seed), manifest.record.context // context
    for index in incident["records"]:
        _, shard, row = order.position(index)
        with tf.io.gfile.GFile(storage.join(data, part.shards[shard].file), "rb") as file:
            file.seek(row * manifest.record.bytes)
            raw = file.read(manifest.record.bytes)
        faults = [kind for kind, _ in records.faults(raw, manifest.record.context, manifest.tokenizer.vocabulary_size)]
        begin = order.sequence_of_record(index, sequences) * context
        ids = records.decode(raw, manifest.record.context)[0, begin : begin + context + 1]
        yield Replayed(index, part.shards[shard].file, row, ", ".join(faults), ids.tolist())


def main() -> None:
    """Prints an incident and the text of its records."""
    for flag in ("run_dir", "data"):
        cli.required(flag, "a directory or a gs:// address")
    cli.import_tensorflow()
    from pipeline.data.format.manifest import load, read_tokenizer
    from pipeline.data.format.tokenizer import Tokenizer
    from pipeline.runs import incidents
    from pipeline.runs.run_directory import RunDirectory

    directory = RunDirectory(FLAGS.run_dir)
    run = directory.read_json("run.json")
    incident = _chosen(incidents.read(directory))
    manifest = load(FLAGS.data)
    for name, fingerprint in (("corpus", manifest.corpus.fingerprint), ("tokenizer", manifest.tokenizer.fingerprint)):
        if run["data"][name] != fingerprint:
            raise UserError(
                f"--data={FLAGS.data} is other data: its {name} is {fingerprint}, the run's {run['data'][name]}"
            )
    tokenizer = Tokenizer(manifest.tokenizer.name, read_tokenizer(FLAGS.data))

    print(f"step {incident['step']}: {incident['reason']}; loss {incident['loss']}, grad norm {incident['grad_norm']}")
    for path, norm in list(incident["gradient_norms"].items())[:5]:
        print(f"  gradient norm {norm} of {path}")
    records = replay(FLAGS.data, incident, seed=run["train"]["seed"], context=run["model"]["context"])
    for record in records:
        state = f"  DAMAGED: {record.fault}" if record.fault else ""
        print(f"\nrecord {record.place}: {record.file} row {record.row}{state}\n{tokenizer.decode(record.ids)}")


def _chosen(all_incidents: list[dict[str, Any]]) -> dict[str, Any]:
    if not all_incidents:
        raise UserError(f"--run_dir={FLAGS.run_dir} has no incidents: no update was skipped")
    if FLAGS.incident is None:
        return all_incidents[-1]
    for incident in all_incidents:
        if incident["step"] == FLAGS.incident:
            return incident
    steps = [incident["step"] for incident in all_incidents]
    nearest = min(steps, key=lambda step: abs(step - FLAGS.incident))
    raise UserError(f"--incident={FLAGS.incident}: no update was skipped at that step; the nearest is {nearest}")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", None, "The run, local or gs://.")
    cli.define_path("data", None, "The data it was trained on, local or gs://.")
    flags.DEFINE_integer("incident", None, "Step of the incident; the newest one by default.")


if __name__ == "__main__":
    cli.run(main, define_flags)
