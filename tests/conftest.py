"""Fixtures of all tests; virtual CPU devices, which have to be configured before TensorFlow starts."""

import contextlib
import gc
import hashlib
import importlib.metadata
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections import Counter

import pytest

from tests.helpers import fork_server, quick
from tests.helpers.places import ROOT

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # a pass over graphs that XLA compiles anyway: a tenth of a start
# Many containers set it, and TensorFlow's modules, compiled anew in each process, are most of what an import costs.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(ROOT / ".pytest_cache" / "bytecode")
    sys.dont_write_bytecode = False
# nohup, and a script's &, ignore these for all that they start, and a test that sends one would wait in vain.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)
VIRTUAL_DEVICES = 4
pytest_plugins = ("tests.helpers.gcs_fixture", "tests.helpers.metadata_server")
gc.set_threshold(300_000, 20, 20)  # building graphs, which are millions of objects, costs a fifth more without


def xla_cache_flags(xla_flags: str) -> str:
    """Returns TF_XLA_FLAGS that keep what XLA compiles for this CPU, for the next process that compiles the same.

    TensorFlow's key for an entry leaves out the flags, the version and the processor, so each set has its own folder.
    """
    cpu = pathlib.Path("/proc/cpuinfo")
    processor = {line for line in cpu.read_text().splitlines() if line.startswith(("model name", "flags"))}
    parts = [xla_flags, importlib.metadata.version("tensorflow"), *sorted(processor)]
    folder = ROOT / ".pytest_cache" / "xla" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return f"--tf_xla_persistent_cache_directory={folder} --tf_xla_persistent_cache_device_types=CPU"


def xla_environment(xla_flags: str) -> dict[str, str]:
    """The environment of a process that compiles with these flags, and keeps what it compiled for those after it."""
    return {"XLA_FLAGS": xla_flags, "TF_XLA_FLAGS": xla_cache_flags(xla_flags)}


# Few steps need not be optimized: with these, XLA compiles in a third of the time, and results stay deterministic.
QUICK_XLA = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
if "XLA_FLAGS" not in os.environ:
    os.environ.update(xla_environment(QUICK_XLA))


@pytest.fixture(scope="session")
def users_xla():
    """The environment of a process whose programs XLA optimizes, as it does a user's."""
    return xla_environment("")


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="skip what imports TensorFlow, starts a process or is slow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Begins to skip what --quick leaves out, in a worker if there are any: starting those is a start of a process."""
    if session.config.getoption("--quick") and not session.config.getoption("numprocesses", None):
        quick.start()


def pytest_collection_modifyitems(config, items):
    """Puts the files with most slow tests first: at the end, a single worker would run them while the others idle."""
    if config.getoption("--quick"):
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def virtual_devices():
    """Four virtual CPU devices, as names for tf.distribute.MirroredStrategy."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * VIRTUAL_DEVICES)
    return [f"CPU:{i}" for i in range(VIRTUAL_DEVICES)]


@pytest.fixture(scope="session", autouse=True)
def _virtual_devices_before_tensorflow_starts(request):
    """Keeps the first test from starting TensorFlow with a single device."""
    if not request.config.getoption("--quick"):
        request.getfixturevalue("virtual_devices")


class _OneServerForAllWorkers:
    """Starts a fork server in the process that has the workers, and tells them of it."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def pytest_configure_node(self, node):
        if not hasattr(self, "_python"):
            folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="fork-server-"))
            self._python = self._open.enter_context(fork_server.start(pathlib.Path(folder)))
        node.workerinput["python"] = self._python

    def pytest_unconfigure(self):
        self._open.close()


def pytest_configure(config):
    if config.getoption("numprocesses", None) and not config.getoption("--quick"):
        config.pluginmanager.register(_OneServerForAllWorkers())


@pytest.fixture(scope="session")
def python(request, tmp_path_factory):
    """The path of an executable in place of Python's, for ``-m MODULE`` of this project; see fork_server.py."""
    with contextlib.ExitStack() as own:
        inherited = getattr(request.config, "workerinput", {}).get("python")
        path = inherited or own.enter_context(fork_server.start(tmp_path_factory.mktemp("python")))
        fork_server.wait_for(path)
        yield path


@pytest.fixture
def forked_children(python, monkeypatch):
    """What this process starts with ``sys.executable -m`` is a fork."""
    monkeypatch.setattr(sys, "executable", python)


@pytest.fixture
def run_module(python):
    """Runs ``python -m MODULE ARGUMENTS`` from the project's root; returns the completed process with its text."""

    def run(module: str, *arguments: str, timeout: float = 600, **options):
        return subprocess.run(
            [python, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )

    return run


@pytest.fixture
def refused(run_module):
    """Runs a module that must refuse its input: exit code 2, and one line on stderr, which is returned."""

    def run(module: str, *arguments: str, **options) -> str:
        done = run_module(module, *arguments, **options)
        assert done.returncode == 2, done.stdout + done.stderr
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        return lines[0]

    return run


@pytest.fixture
def as_nobody(tmp_path):
    """A context in which this process has an ordinary user's rights: root is denied nothing."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.owner() == "root" and folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(folder.stat().st_mode | 0o055)

    @contextlib.contextmanager
    def become():
        os.setresuid(65534, 65534, 0)  # the real one too, which access(2) asks
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return become


@pytest.fixture(scope="session")
def tiny_run_dir(tmp_path_factory):
    """The run of tests/helpers/tiny_run.py, for tests that read it."""
    from tests.helpers import tiny_run

    path = tmp_path_factory.mktemp("tiny_run")
    tiny_run.write(path)
    return path
