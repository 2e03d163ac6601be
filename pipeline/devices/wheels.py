"""Which combinations of TensorFlow and libtpu wheels work; imports neither."""

import importlib.metadata

from pipeline.errors import UserError, pip_install

# tensorflow-tpu 2.20.0 aborts the whole process when it is imported with a later libtpu ("… not available in this
# library"), although its own requirements allow them. Tried: 0.0.21 and 0.0.24 work; 0.0.32.1, 0.0.40, 0.0.52 abort.
LAST_LIBTPU_FOR = {"2.20": (0, 0, 24)}


def check_wheels() -> None:
    """Raises UserError if the installed tensorflow-tpu would abort with the installed libtpu.

    Call it before importing TensorFlow, which would end the process without an exception.
    """
    tensorflow, libtpu = installed("tensorflow-tpu"), installed("libtpu")
    if tensorflow is None:
        return
    if libtpu is None:
        raise UserError(f"tensorflow-tpu {tensorflow} needs libtpu; {pip_install('-r requirements-tpu.txt')}")
    last = LAST_LIBTPU_FOR.get(".".join(tensorflow.split(".")[:2]))
    if last and tuple(int(part) for part in libtpu.split(".")[:3] if part.isdigit()) > last:
        expected = ".".join(map(str, last))
        raise UserError(
            f"tensorflow-tpu {tensorflow} aborts beside libtpu {libtpu}; "
            f"{pip_install(f'libtpu=={expected}')} (requirements-tpu.txt has the set that works)"
        )
    if installed("tensorflow") is not None:
        raise UserError(
            "tensorflow and tensorflow-tpu are both installed; pip uninstall tensorflow, then reinstall the other"
        )


def compiles_for_cpu() -> bool:
    """Whether XLA compiles for the CPU here: TensorFlow's TPU build compiles only for TPUs."""
    return installed("tensorflow-tpu") is None


def pip_install_jax() -> str:
    """Returns the command that installs jax with a matching libtpu: a TPU VM's pair, or the preflight's."""
    return pip_install(f"-r requirements-{'preflight' if installed('tensorflow-tpu') is None else 'tpu'}.txt")


def installed(package: str) -> str | None:
    """Returns the version of an installed package, without importing it, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
