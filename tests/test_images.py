"""The Dockerfiles, without Docker: what they copy is enough to run, what they install is what the pages say."""

import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from tests.helpers.places import ROOT

IMAGES = ("Dockerfile", "Dockerfile.tpu")


def instructions(image):
    """(instruction, arguments) of each line of a Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / image).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def sources(image):
    return [name for instruction, rest in instructions(image) if instruction == "COPY" for name in rest.split()[:-1]]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_runs(image, tmp_path):
    for name in sources(image):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    steps = dict(instructions(image))
    command = [sys.executable, *json.loads(steps["ENTRYPOINT"])[1:]]
    dry_run = ["pipeline.train", "--gin_file=gpt2.gin", "--tpu=v3-8", "--dry_run"]
    for arguments, expected in ((json.loads(steps["CMD"]), "--dry_run"), (dry_run, "global batch")):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and expected in done.stdout, done


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_sent_to_the_engine(image):
    first, *others = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    assert {f"!{name}" for name in sources(image)} <= set(others)


@pytest.mark.parametrize("image", IMAGES)
def test_the_python_is_the_projects(image):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    (version,) = re.findall(r"^python:(3\.\d+)-", dict(instructions(image))["FROM"])
    assert SpecifierSet(wanted).contains(version)


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_installed_was_copied(image):
    installed = re.findall(r"--requirement=(\S+)", (ROOT / image).read_text())
    assert installed
    for file in installed:
        named = re.findall(r"^-[cr] (\S+)", (ROOT / file).read_text(), re.MULTILINE)
        assert {file, *named} <= set(sources(image))


def test_tensorflow_text_is_the_one_that_the_requirements_name():
    [named] = set(re.findall(r"tensorflow-text==\S+", (ROOT / "requirements-tpu.txt").read_text()))
    assert re.findall(r"tensorflow-text==\S+", (ROOT / "Dockerfile.tpu").read_text()) == [named]


def test_the_hooks_are_what_make_checks():
    hooks = re.findall(r"entry: (\.venv/bin/\w+(?: \w+)?)", (ROOT / ".pre-commit-config.yaml").read_text())
    recipes = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    assert hooks == [".venv/bin/ruff check", ".venv/bin/ruff format", ".venv/bin/mypy"]
    assert all(f"\t{hook}" in recipes for hook in hooks)
