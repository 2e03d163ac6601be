"""Beam's runners give the bytes and the manifest of the local engine, also when every bundle runs twice."""

import ast
import contextlib
import io
import lzma
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from tests.helpers.places import ROOT, WIKITEXT

BEAM = ROOT / "build" / "beam" / "bin" / "python"
needs_beam = pytest.mark.skipif(not BEAM.exists(), reason="no environment with Apache Beam: make setup-beam")
TWICE = ("--beam_option=direct_running_mode=in_memory", "--beam_option=direct_runner_bundle_repeat=1")


def shard(python, *arguments, environment=None):
    return subprocess.run(
        [str(python), "-m", "pipeline.shard", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def files(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def tar(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def openwebtext(tmp_path):
    """Flags for an archive of the corpus's shape: a tar.xz of tar.xz files of documents, an empty one among them."""
    inner = {}
    for subset in range(3):
        texts = {f"{subset:03}{i:04}-hash.txt": f"Page {i} of {subset}, naïve. ".encode() * (i % 7) for i in range(60)}
        inner[f"openwebtext/urlsf_subset{subset:02}-1_data.xz"] = lzma.compress(tar(texts))
    (tmp_path / "openwebtext.tar.xz").write_bytes(lzma.compress(tar(inner)))
    settings = ("shards=4", "context=16", "validation_fraction=0.2")
    return (
        "--gin_file=datasets/openwebtext.gin",
        f"--source={tmp_path}/openwebtext.tar.xz",
        *(f"--gin_param=shard.{setting}" for setting in settings),
    )


def local(tmp_path, flags):
    done = shard(sys.executable, *flags, f"--output={tmp_path}/local")
    assert done.returncode == 0, done.stderr
    return files(tmp_path / "local")


@needs_beam
@pytest.mark.slow
def test_an_archive_whose_bundles_all_run_twice(tmp_path, openwebtext):
    done = shard(BEAM, *openwebtext, f"--output={tmp_path}/beam", "--runner=DirectRunner", *TWICE)
    assert done.returncode == 0, done.stderr
    assert "it is the better choice: leave --runner out" in done.stdout
    assert files(tmp_path / "beam") == local(tmp_path, openwebtext)
    again = shard(BEAM, *openwebtext, f"--output={tmp_path}/beam", "--runner=DirectRunner")
    assert "nothing to do" in again.stdout, again.stderr


@needs_beam
@pytest.mark.slow
@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="the WikiText text is not on this machine")
def test_wikitext_in_two_processes(tmp_path):
    flags = ("--gin_file=datasets/wikitext-2.gin", f"--source={WIKITEXT}", "--gin_param=shard.shards=8")
    done = shard(BEAM, *flags, f"--output={tmp_path}/beam", "--runner=DirectRunner", "--workers=2")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "beam") == local(tmp_path, flags)


@contextlib.contextmanager
def dask_cluster(folder, workers):
    """A scheduler and workers of one thread, each a process that nothing starts again; the file that leads to them."""
    file = folder / "scheduler.json"
    common = (f"--scheduler-file={file}", "--host=127.0.0.1", "--no-dashboard")
    commands = [["scheduler", "--port=0", *common]]
    commands += [["worker", "--nthreads=1", "--no-nanny", f"--local-directory={folder}", *common]] * workers
    with contextlib.ExitStack() as stack:
        processes = []
        for number, command in enumerate(commands):
            log = stack.enter_context((folder / f"{number}.log").open("w+", encoding="utf-8"))
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen([BEAM.with_name("dask"), *command], env=environment, cwd=folder, stderr=log)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for number, process in enumerate(processes[1:], 1):
            while "Registered to" not in (log := (folder / f"{number}.log").read_text(encoding="utf-8")):
                assert process.poll() is None, log
                time.sleep(0.05)
        yield file, processes[1:]


def is_writing(process, folder):
    """Whether a process has a file open below a folder that is not finished."""
    descriptors = pathlib.Path(f"/proc/{process.pid}/fd")
    with contextlib.suppress(FileNotFoundError, PermissionError):  # it has ended, or closed a file meanwhile
        paths = [os.readlink(descriptor) for descriptor in descriptors.iterdir()]
        return any(path.startswith(f"{folder}/") and "/.partial-" in path for path in paths)
    return False


@needs_beam
@pytest.mark.slow
def test_a_dask_cluster_of_which_a_worker_is_killed_while_it_writes(tmp_path):
    source, out = tmp_path / "wiki", tmp_path / "beam"
    source.mkdir()
    for part in ("train", "valid", "test"):  # a unit each
        articles = (f" \n = {part} {i} = \n \n" + f"Line {i} of {part}, naïve. \n" * (i % 9) for i in range(900))
        (source / f"wiki.{part}.raw").write_text("".join(articles))
    flags = (
        "--gin_file=datasets/wikitext-2.gin",
        f"--source={os.path.relpath(source, ROOT)}",
        "--gin_param=shard.context=16",
    )
    with dask_cluster(tmp_path, workers=3) as (file, workers):
        dask = ("--runner=DaskRunner", f"--beam_option=dask_scheduler_file={file}", "--beam_option=dask_npartitions=6")
        command = [BEAM, "-m", "pipeline.shard", *flags, *dask, f"--output={os.path.relpath(out, ROOT)}"]
        job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        writers, killed = set(), None
        while job.poll() is None:
            for worker in workers:
                if is_writing(worker, out):
                    writers.add(worker.pid)
                    worker.send_signal(signal.SIGSTOP)
                    if not killed and is_writing(worker, out):  # still, so in the middle of it
                        worker.kill()
                        killed = worker
                    worker.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        assert job.returncode == 0, job.stderr.read()
    assert killed and killed.returncode == -signal.SIGKILL and len(writers) == 3
    assert files(out) == local(tmp_path, flags)


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize(
    "runner",
    [
        ("DirectRunner", "--beam_option=direct_running_mode=in_memory"),
        ("DirectRunner", "--beam_option=direct_running_mode=multi_processing"),
        ("DaskRunner", "--beam_option=dask_npartitions=2"),
    ],
)
def test_what_a_step_refuses_ends_with_its_sentence_and_leaves_nothing(tmp_path, openwebtext, runner):
    name, option = runner
    flags = (*openwebtext, "--gin_param=shard.shards=5000", f"--runner={name}", option)
    done = shard(BEAM, *flags, f"--output={tmp_path}/out")
    assert done.returncode == 2, done.stderr
    assert re.match(r"error: shard.shards = 5000 is more than .* take at most \d+$", done.stderr.splitlines()[-1])
    assert not (tmp_path / "out").exists()


@needs_beam
@pytest.mark.slow
def test_no_dask_scheduler_is_one_line(tmp_path, openwebtext):
    options = ("--beam_option=dask_client_address=tcp://127.0.0.1:9", "--beam_option=dask_connection_timeout=1")
    done = shard(BEAM, *openwebtext, f"--output={tmp_path}/out", "--runner=DaskRunner", *options)
    assert done.returncode == 2 and "no scheduler answers" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@needs_beam
@pytest.mark.slow
def test_run_files_on_cloud_storage(tmp_path, openwebtext, gcs):
    flags = (*openwebtext, "--output=gs://corpus/out", "--runner=DirectRunner", *TWICE)
    done = shard(BEAM, *flags, environment=gcs.environment)
    assert done.returncode == 0, done.stderr
    expected = local(tmp_path, openwebtext)
    assert {name.removeprefix("out/"): data for name, data in gcs.objects().items()} == expected


@needs_beam
@pytest.mark.slow
@pytest.mark.parametrize("runner", ["DataflowRunner", "FlinkRunner", "SparkRunner"])
def test_a_job_is_described_without_a_service(tmp_path, openwebtext, gcs, runner):
    flags, places = [*openwebtext], [f"--output={tmp_path}/out"]
    if runner == "DataflowRunner":
        (source,) = [flag for flag in flags if flag.startswith("--source=")]
        refused = shard(BEAM, *flags, *places, f"--runner={runner}", *DATAFLOW)
        assert refused.returncode == 2 and "Dataflow's workers cannot see this machine's files" in refused.stderr
        gcs.put("in/openwebtext.tar.xz", pathlib.Path(source.removeprefix("--source=")).read_bytes())
        flags[flags.index(source)] = "--source=gs://corpus/in/openwebtext.tar.xz"
        places = ["--output=gs://corpus/out", *DATAFLOW]
    job = tmp_path / "job"
    job.mkdir()
    done = shard(
        BEAM, *flags, *places, f"--runner={runner}", f"--describe_job={job}", environment=dict(gcs.environment)
    )
    assert done.returncode == 0, done.stderr
    graph = (job / "job.pb").read_bytes()
    for step in (b"List units", b"Encode", b"Merge", b"Write shards", b"Commit"):
        assert step in graph
    with tarfile.open(next(job.glob("*.tar.gz"))) as package:
        names = {name.partition("/")[2] for name in package.getnames()}
        setup = package.extractfile(next(m for m in package if m.name.endswith("/setup.py"))).read().decode()
    assert {"pipeline/errors.py", "pipeline/data/sharding/stages.py", "pipeline/data/sharding/beam/units.py"} <= names
    assert "fastokens==" in setup and "tensorflow" not in setup
    assert not (tmp_path / "out").exists()


DATAFLOW = (
    "--beam_option=project=mine",
    "--beam_option=region=europe-west4",
    "--beam_option=temp_location=gs://corpus/temporary",
)


@needs_beam
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runner=DataflowRunner"], "--runner=DataflowRunner needs --beam_option=project=…"),
        (["--runner=DirectRunner", "--beam_option=projet=p"], "Beam has no option 'projet' (did you mean 'project'?)"),
        (["--runner=DirectRunner", "--beam_option=direct_num_workers=x"], "invalid int value: 'x'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, openwebtext, arguments, message):
    done = shard(BEAM, *openwebtext, f"--output={tmp_path}/out", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_package_of_the_workers_holds_all_that_units_import(tmp_path):
    folder = ROOT / "pipeline" / "data"
    options = ast.parse((folder / "sharding" / "beam" / "options.py").read_text(encoding="utf-8"))  # it imports Beam
    (packaged,) = [node for node in options.body if ast.unparse(node).startswith("PACKAGED = ")]
    for name in ast.literal_eval(packaged.value):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    modules = ["pipeline.data.sharding.beam.near", "pipeline.storage.gcs_reader"]
    modules += [f"pipeline.data.corpora.{path.stem}" for path in (folder / "corpora").glob("[a-z]*.py")]
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_runner_and_a_missing_beam_are_one_line(tmp_path, openwebtext, refused):
    flags = (*openwebtext, f"--output={tmp_path}/out")
    assert "did you mean 'DirectRunner'?" in refused("pipeline.shard", *flags, "--runner=DirectRuner")
    assert "Apache Beam is not installed here" in refused("pipeline.shard", *flags, "--runner=DirectRunner")
    assert not (tmp_path / "out").exists()
