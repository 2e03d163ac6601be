"""Flags, exit codes and quiet libraries, shared by every command line."""

import functools
import gc
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from absl import flags

from pipeline import help_text, paths, storage, streams
from pipeline.errors import UserError, WorkerLostError, WorkFailedError, data_fault, disk_fault

if TYPE_CHECKING:
    from pipeline.devices.tpu_target import Target

FLAGS = flags.FLAGS
STARTED = time.time()  # of this command, in Unix seconds


class _PathParser(flags.ArgumentParser):
    """Checks a path with ``paths.checked``, for every flag that names a file or a directory."""

    def parse(self, argument: str) -> str:
        return paths.checked(argument)

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, default: str | None, meaning: str) -> None:
    """Defines a flag that names a file or a directory, local or ``gs://``."""
    flags.DEFINE(_PathParser(), name, default, meaning)


def define_paths(name: str, meaning: str) -> None:
    """Defines a flag of paths that repeats."""
    flags.DEFINE_multi(_PathParser(), flags.ArgumentSerializer(), name, [], meaning)


def define_gin_flags() -> None:
    """Defines ``--gin_file`` and ``--gin_param``, both of which repeat."""
    define_paths("gin_file", "A gin file, looked up as given and then under gin/.")
    define_gin_param_flag()


def define_gin_param_flag() -> None:
    """Defines ``--gin_param`` alone, for a command whose gin file is its own."""
    flags.DEFINE_multi_string("gin_param", [], "A gin override: train.steps=100, for example.")


def define_tpu_flag(meaning: str) -> None:
    """Defines ``--tpu``, which must not be empty: an unset variable would train on this machine's CPU unasked."""
    flags.DEFINE_string("tpu", None, meaning)
    flags.register_validator("tpu", lambda name: name != "", "is empty; expected a slice such as v3-8, or no --tpu")


def required(flag: str, expected: str) -> Any:
    """Returns a flag's value; if it has none, UserError says what was expected."""
    if not FLAGS[flag].value:
        raise UserError(f"--{flag} is missing; expected {expected}")
    return FLAGS[flag].value


def check_files(*names: str) -> None:
    """Raises UserError, before any work is done, if a file that one of these flags names could not be written."""
    for name in names:
        if file := FLAGS[name].value:
            try:
                storage.check_file(str(file))
            except UserError as error:
                raise UserError(f"--{name}={error}") from None


def run(main: Callable[..., int | None], define_flags: Callable[[], None] | None = None) -> None:
    """Runs a command with this process's arguments, and exits with its code, or with 1 if what it printed was lost."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the C++ log floods stderr with advice about CPU features
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(4 << 20))  # 64 MiB per open gs:// file otherwise
    streams.protect()
    code = call(main, define_flags, sys.argv[1:])
    if code == os.EX_TEMPFAIL:
        streams.lost()
        os._exit(code)  # an orderly exit waits, perhaps forever, for what TensorFlow has on the lost worker
    sys.exit(code or int(streams.lost()))


def call(main: Callable[..., int | None], define_flags: Callable[[], None] | None, arguments: Sequence[str]) -> int:
    """Runs a command in this process, with flags of its own, and returns its exit code.

    Args:
        main: gets the arguments that are not flags, one per parameter.
        define_flags: defines the command's flags, which are removed afterwards.
        arguments: as on a command line.

    Returns:
        0 done; 1 the work failed; 2 the user's input is wrong; 75 (EX_TEMPFAIL) a worker went away, or is about to:
        start the command again. The reason is printed as one line.
    """
    of_libraries = set(FLAGS)
    if define_flags:
        define_flags()
    own = [name for name in FLAGS if name not in of_libraries]
    try:
        return _exit_code(main, [FLAGS[name] for name in own], arguments)
    finally:
        FLAGS.remove_flag_values(own)


def _exit_code(main: Callable[..., int | None], own: list[flags.Flag], arguments: Sequence[str]) -> int:
    module = sys.modules[main.__module__]
    if any(argument in help_text.HELP for argument in arguments):
        print(help_text.text(module, own))
        return 0
    try:
        rest = _parsed(own, arguments, module)
        most = _positional(main)
        if len(rest) > most:
            raise UserError(f"{rest[most]!r} is not a flag; flags are written --name=value")
        return main(*rest) or 0
    except UserError as error:
        pointer = "" if arguments else f" ({help_text.command(module)} --help says what there is)"
        print(f"error: {error}{pointer}", file=sys.stderr)
        return 2
    except PermissionError as error:  # one that no command handles itself
        print(f"error: {error.filename}: not permitted to this user ({error.strerror})", file=sys.stderr)
        return 2
    except WorkerLostError as error:
        print(lost_line(error), file=sys.stderr)
        return os.EX_TEMPFAIL
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        reason = str(error) if isinstance(error, WorkFailedError) else disk_fault(error) or data_fault(error)
        if reason is None:
            raise
        print(f"failed: {reason}", file=sys.stderr)
        return 1


def lost_line(reason: object) -> str:
    """Returns the last line of a command that has lost a worker."""
    return f"lost: {reason}; the same command continues from the newest checkpoint"


def end_lost(reason: str) -> NoReturn:
    """Ends this process with 75 from any thread, even while others wait."""
    print(lost_line(reason), file=sys.stderr, flush=True)
    os._exit(os.EX_TEMPFAIL)


def _positional(main: Callable[..., int | None]) -> int:
    """Returns how many positional arguments a command takes."""
    kinds = [parameter.kind for parameter in inspect.signature(main).parameters.values()]
    return sys.maxsize if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds)


def _parsed(own: list[flags.Flag], arguments: Sequence[str], module: ModuleType) -> list[str]:
    """Parses the flags and returns the other arguments; rejects two values for a flag that takes one."""
    for flag in own:
        if not isinstance(flag, flags.MultiFlag):
            setattr(flag, "parse", functools.partial(_parse_once, flag, flag.parse))  # noqa: B010
    try:
        return FLAGS([sys.argv[0], *arguments])[1:]
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME=VALUE
        raise UserError(help_text.mistake(error, own, module)) from None


def _parse_once(flag: flags.Flag, parse: Callable[[Any], None], argument: Any) -> None:
    before, given = flag.value, flag.present
    try:
        parse(argument)
    except flags.IllegalFlagValueError:
        if not (expected := help_text.expected(flag)):
            raise
        raise UserError(f"--{flag.name}={argument}: expected {expected}") from None
    if given and flag.value != before:
        raise UserError(f"--{flag.name} is given twice, as {before} and as {flag.value}; expected it once")


def import_tensorflow(target: "Target | None" = None) -> None:
    """Imports TensorFlow without its C++ start-up log, which no setting of TensorFlow 2.21 silences.

    For a TPU that ``tpu_target.check`` has found, it first sets the environment that the TPU needs.

    If the import fails, it shows what went to stderr meanwhile. If the installed wheels would abort the process, it
    raises UserError, since their message would be lost.
    """
    from pipeline.devices import environment, wheels

    wheels.check_wheels()
    if target and target.kind == "tpu":
        environment.apply(target.slice, target.address)
    gc.set_threshold(300_000, 20, 20)  # at Python's default of 700, collections take a sixth of a command's start
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
