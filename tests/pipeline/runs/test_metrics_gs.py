"""A bucket takes no appended line: it gets the records now and then, and all of them before a checkpoint."""

import json

RUN = "gs://corpus/run"


def write(first, loops, flushes):
    from pipeline.runs.metrics_writer import MetricsWriter
    from pipeline.runs.run_directory import RunDirectory

    metrics = MetricsWriter(RunDirectory(RUN), {}, wandb_mode="off", resume_step=first - 1)
    for loop in range(loops):
        metrics.write(*({"step": first + 10 * loop + i, "loss": 2.0} for i in range(10)))
    if flushes:
        metrics.flush()


def test_a_bucket_gets_the_records_now_and_then_and_all_before_a_checkpoint(gcs, on_gcs):
    def steps():
        return [json.loads(line)["step"] for line in gcs.objects()["run/metrics.jsonl"].decode().splitlines()]

    on_gcs(write, 1, 50, flushes=False)
    assert steps() == list(range(1, 11)), "the first loop's at once, those of the next minute later"
    on_gcs(write, 6, 50, flushes=True)
    assert steps() == list(range(1, 506))
    sent = [seen for seen in gcs.seen("PUT") if "tfevents" in seen.query.get("name", "")]
    assert len(sent) <= 6, "TensorBoard's file is sent whole each time, and not for every ten events"
