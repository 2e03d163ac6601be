"""The readers of docs/read_shards.md give the pipeline's own batches; the constants of the pages are the format's."""

import re

import numpy as np
import pytest

from pipeline.data.format import records
from pipeline.data.reading import record_order
from tests.helpers.places import ROOT
from tests.helpers.shards import CONTEXT, write_data

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
STEPS, BATCH = 40, 6  # 240 of 43 records: into the sixth pass


@pytest.fixture(scope="module")
def code():
    """The page's blocks of Python: NumPy's, PyTorch's."""
    blocks = BLOCK.findall((ROOT / "docs" / "read_shards.md").read_text())
    assert len(blocks) == 2
    return blocks


@pytest.fixture
def data(tmp_path):
    data = write_data(tmp_path, shards=4, count=43)
    (tmp_path / "manifest.json").write_text(data.manifest.dumps())
    return data


def of_the_pipeline(data, *, seed, context, start=0):
    from pipeline.data.reading import datasets

    shape = {"seed": seed, "global_batch": BATCH, "context": context, "start_step": start, "replicas": 1}
    dataset = datasets.train_dataset(data.path, data.manifest, **shape).take(STEPS - start)
    return [element["tokens"] for element in dataset.as_numpy_iterator()]


@pytest.mark.parametrize(("context", "seed", "start"), [(CONTEXT, 7, 0), (4, 7, 0), (8, -1, 25)])
def test_the_numpy_reader_gives_the_pipelines_batches(code, data, context, seed, start):
    names = {}
    exec(code[0], names)
    reader = names["batches"](data.path, seed=seed, batch=BATCH, context=context, step=start)
    for ours in of_the_pipeline(data, seed=seed, context=context, start=start):
        np.testing.assert_array_equal(next(reader), ours)


def test_the_pytorch_reader_gives_the_pipelines_batches(code, data):
    torch = pytest.importorskip("torch", reason="pip install -r requirements-torch.txt")
    names = {}
    exec(code[0] + code[1], names)
    order = {"seed": 7, "batch": BATCH, "context": 4}
    expected = of_the_pipeline(data, seed=7, context=4)
    loader = torch.utils.data.DataLoader(names["Shards"](data.path, **order), batch_size=None, num_workers=3)
    for ours, theirs in zip(expected, loader, strict=False):
        np.testing.assert_array_equal(theirs, ours)
    ranks = [names["Shards"](data.path, step=30, rank=rank, ranks=2, **order) for rank in range(2)]
    for ours, *shares in zip(expected[30:], *ranks, strict=False):
        np.testing.assert_array_equal(sorted(torch.cat(shares).tolist()), sorted(ours.tolist()))


def test_the_pages_constants_are_those_of_the_format():
    page = (ROOT / "docs" / "shard_format.md").read_text()
    assert f"\n{records.record_frame(1024).hex(' ')}\n" in page
    assert "| 2,085 … 2,088 |" in page and records.record_bytes(1024) == 2089 and records.tokens_offset(1024) == 35
    order = (ROOT / "docs" / "batch_order.md").read_text()
    for constant in (record_order.GOLDEN, record_order.FIRST, record_order.SECOND, record_order.mix(0)):
        assert f"0x{constant:016X}" in order
    for numbers in (
        record_order.permutation(17, 3, 8),
        [record_order.rotation(17, 3, shard, 1000) for shard in range(4)],
    ):
        assert f"| {', '.join(map(str, numbers))} |" in order
