"""Beam's pipeline options: the runner, its requirements, and the package that its workers install.

Sources: Beam's PipelineOptions, and "Managing Python Pipeline Dependencies" of its documentation.
"""

import argparse
import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
from apache_beam.runners.dask import dask_runner  # noqa: F401  (its options are known once it is imported)
from apache_beam.runners.portability.stager import Stager

from pipeline import storage
from pipeline.errors import UserError, nearest

ROOT = pathlib.Path(__file__).resolve().parents[4]
PACKAGED = (  # the units' imports
    "pipeline/__init__.py",
    "pipeline/errors.py",
    "pipeline/progress.py",
    "pipeline/texts.py",
    "pipeline/storage",
    "pipeline/data",
)
SETUP = """from setuptools import find_packages, setup

setup(name="gpt2-tpu-pipeline-units", version="1", packages=find_packages(), install_requires={requirements!r})
"""
# Lines of requirements-beam.txt that the workers' package omits: comments, options, and what runners provide.
NOT_PACKAGED = ("#", "-", "apache-beam", "dask", "distributed", "setuptools")
DASK_PARTITIONS = 256  # tasks of a step; one is repeated if its worker is lost, an empty one costs milliseconds
REQUIRED = {"DataflowRunner": ("project", "region", "temp_location")}


def parse(runner: str, given: Sequence[str], workers: int) -> PipelineOptions:
    """Returns Beam's options from ``NAME=VALUE`` strings.

    Raises:
        UserError: an option is unknown to Beam, malformed, or missing for this runner.
    """
    known = _known()
    for option in given:
        name, equals, _ = option.partition("=")
        if name not in known:
            raise UserError(f"--beam_option={option}: Beam has no option {name!r}{nearest(name, known)}")
        if not equals and known[name].nargs != 0:
            raise UserError(f"--beam_option={option}: expected {name}=VALUE")
    names = {option.partition("=")[0] for option in given}
    for name in REQUIRED.get(runner, ()):
        if name not in names:
            raise UserError(f"--runner={runner} needs --beam_option={name}=…")
    arguments = [f"--{option}" for option in given]
    if runner == "DirectRunner":
        arguments += [f"--direct_num_workers={workers}"] * ("direct_num_workers" not in names)
        arguments += ["--direct_running_mode=multi_processing"] * ("direct_running_mode" not in names and workers > 1)
    if runner == "DaskRunner":
        arguments += [f"--dask_npartitions={DASK_PARTITIONS}"] * ("dask_npartitions" not in names)
    complaint = io.StringIO()  # argparse's: pages of usage, then the reason
    try:
        with contextlib.redirect_stderr(complaint):
            parsed = PipelineOptions([f"--runner={runner}", *arguments])
            parsed.get_all_options()
    except SystemExit as error:
        raise UserError(f"--beam_option: {complaint.getvalue().rpartition('error: ')[2]}") from error
    return parsed


def _known() -> dict[str, argparse.Action]:
    """Returns Beam's options by flag name, which may differ from the name of what they set."""
    parsers: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    return {name.removeprefix("--"): action for name, action in parsers[0]._option_string_actions.items()}


@contextlib.contextmanager
def staged(runner: str, options: PipelineOptions) -> Iterator[str]:
    """Packages the units' modules in a temporary folder, and tells runners of other machines about it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in PACKAGED:
            target = os.path.join(folder, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, target)
        lines = (ROOT / "requirements-beam.txt").read_text(encoding="utf-8").splitlines()
        requirements = [line for line in lines if line and not line.startswith(NOT_PACKAGED)]
        setup = os.path.join(folder, "setup.py")
        pathlib.Path(setup).write_text(SETUP.format(requirements=requirements), encoding="utf-8")
        if runner != "DirectRunner":
            options.view_as(SetupOptions).setup_file = setup
        yield setup


def build_package(setup: str, folder: str) -> str:
    """Builds the source package as Beam's stager does for a job; returns its name in ``folder``."""
    with tempfile.TemporaryDirectory() as temporary:
        package = Stager._build_setup_package(setup, temporary)
        name = os.path.basename(package)
        data = pathlib.Path(package).read_bytes()
    storage.publish_bytes(data, storage.join(folder, name))
    return name
