"""The sharder from and to gs://: the same bytes as on a local disk, through faults; one line where it cannot go on."""

import pytest

from pipeline.data.format import manifest as manifests
from pipeline.errors import UserError
from tests.helpers.hostile import NAMES
from tests.helpers.sharding import SMALL_LIMITS, run_sharder

TEXTS = {
    f"{number:02}.txt": f"Page {number} says naïve things, again and again. " * (5 + number) for number in range(40)
}


@pytest.fixture
def shard_on_gcs(on_gcs, small_tokenizer, tmp_path):
    """Shards in a process whose gs:// paths go to the emulator."""

    def run(source, output, **settings):
        config = {"corpus": "text", "name": "test", "shards": 3, "context": 16, "validation_fraction": 0.2}
        config = config | {"tokenizer": small_tokenizer} | settings
        return on_gcs(run_sharder, SMALL_LIMITS, config, str(source), output, 2, str(tmp_path / "work"))

    return run


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def expected(source, shard, tmp_path):
    """The files of the same command on a local disk."""
    shard(source, tmp_path / "local", validation_fraction=0.2)
    return {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()}


def uploaded(gcs):
    return {name.removeprefix("out/"): data for name, data in gcs.objects().items() if name.startswith("out/")}


def test_local_text_to_gs(gcs, shard_on_gcs, source, expected, tmp_path):
    shard_on_gcs(source, "gs://corpus/out")
    assert uploaded(gcs) == expected
    assert not (tmp_path / "work").exists()
    assert list(uploaded(gcs))[-1] == "manifest.json", "the manifest goes last"  # the store keeps their order


@pytest.mark.parametrize("name", NAMES)
def test_an_output_may_have_any_name(gcs, shard_on_gcs, tmp_path, name):
    (tmp_path / "a.txt").write_text("the cat and the dog\n" * 100)
    manifest = shard_on_gcs(tmp_path / "a.txt", f"gs://corpus/{name}/out", validation_fraction=0.0)
    shards = {f"{name}/out/{shard.file}" for shard in manifest.parts["train"].shards}
    assert {*gcs.objects()} == shards | {f"{name}/out/{file}" for file in ("manifest.json", "tokenizer.json")}
    assert manifests.load(f"gs://corpus/{name}/out") == manifest


def test_gs_text_to_gs_and_again(gcs, shard_on_gcs, expected):
    for name, text in TEXTS.items():
        gcs.put(f"in/{name}", text.encode())
    first = shard_on_gcs("gs://corpus/in", "gs://corpus/out")
    assert uploaded(gcs) == expected
    before = len(gcs.seen("POST"))
    assert shard_on_gcs("gs://corpus/in", "gs://corpus/out") == first
    assert len(gcs.seen("POST")) == before


@pytest.mark.parametrize(
    ("kind", "value"), [("status", 503), ("status", 429), ("cut_reply", 10), ("cut_upload", 300), ("no_reply", 0)]
)
def test_faults_change_no_byte(gcs, shard_on_gcs, source, expected, kind, value):
    fault = gcs.inject(kind, verb="POST", path="upload", value=value, times=2)
    shard_on_gcs(source, "gs://corpus/out")
    assert fault.hits == 2
    assert uploaded(gcs) == expected


def test_an_interrupted_upload_is_resumed_by_the_same_command(gcs, shard_on_gcs, source, expected):
    gcs.put("out/train-00001-of-00003.tfrecord", expected["train-00001-of-00003.tfrecord"])
    shard_on_gcs(source, "gs://corpus/out")
    assert uploaded(gcs) == expected


def test_another_object_in_the_way_is_refused_and_kept(gcs, shard_on_gcs, source):
    gcs.put("out/train-00001-of-00003.tfrecord", b"other")
    with pytest.raises(UserError, match="train-00001-of-00003.tfrecord"):
        shard_on_gcs(source, "gs://corpus/out")
    assert gcs.objects()["out/train-00001-of-00003.tfrecord"] == b"other"
    assert "out/manifest.json" not in gcs.objects()


def test_another_data_set_is_refused(gcs, shard_on_gcs, source):
    shard_on_gcs(source, "gs://corpus/out")
    with pytest.raises(UserError, match="with seed 0, but this command says 1"):
        shard_on_gcs(source, "gs://corpus/out", seed=1)


def test_a_bucket_that_does_not_exist_is_refused_before_any_work(shard_on_gcs, source, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        shard_on_gcs(source, "gs://nowhere/out")
    assert not (tmp_path / "work").exists()


def records_read_by_tensorflow(directory):
    """Runs in a process whose TensorFlow speaks to the emulator."""
    import tensorflow as tf

    manifest = manifests.load(directory)
    files = [f"{directory}/{shard.file}" for shard in manifest.parts["train"].shards]
    assert sorted(tf.io.gfile.glob(f"{directory}/train-*")) == files
    features = {"tokens": tf.io.FixedLenFeature([], tf.string)}
    rows = [tf.io.parse_single_example(raw, features)["tokens"].numpy() for raw in tf.data.TFRecordDataset(files)]
    return rows, manifest.parts["train"].records


def test_tensorflow_reads_the_shards_with_its_own_client(gcs, shard_on_gcs, on_gcs, source, expected):
    shard_on_gcs(source, "gs://corpus/out")
    rows, count = on_gcs(records_read_by_tensorflow, "gs://corpus/out")
    size = len(expected["train-00000-of-00003.tfrecord"]) // -(-count // 3)
    shards = b"".join(expected[f"train-{s:05d}-of-00003.tfrecord"] for s in range(3))
    assert len(rows) == count
    assert rows == [shards[i * size + size - 4 - 34 : i * size + size - 4] for i in range(count)]
