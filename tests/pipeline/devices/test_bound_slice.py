"""The slice of a run: gin's or that of --tpu, the same for the dry run, the preflight, a sweep and the training."""

import pytest

from pipeline.config import gin_reader
from pipeline.config.run_config import load_run_config, note_overridden_slice
from pipeline.devices import slices, tpu_target
from pipeline.errors import UserError
from pipeline.preflight import compile_step, tpu_compiler
from pipeline.preflight.compile_step import require_fit
from tools.sweep import cells, fitting

V3_128 = ["algpt2.gin", "slices/v3-128.gin"]


@pytest.fixture
def included(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'algpt2.gin'\ninclude 'slices/v3-128.gin'\n")
    return [str(path)]


@pytest.mark.parametrize("tpu", [None, "v3-128"])
def test_a_slice_that_gin_binds_is_that_of_the_run(included, tpu, capsys):
    bound = [f"slice.{name}={value!r}" for name, value in vars(slices.find("v3-128")).items()]
    for files, params in ((V3_128, []), (included, []), (["algpt2.gin"], bound)):
        run = load_run_config(files, params, tpu)
        assert (run.target.replicas, run.target.hosts, run.plan.accumulation) == (128, 16, 1)
        assert run.target.slice == slices.find("v3-128")
        note_overridden_slice(run.configuration, tpu)
    assert capsys.readouterr().err == ""


def test_every_name_for_the_flag_is_one_for_gin(tmp_path):
    """As ``--gin_file=slices/NAME.gin``, and included."""
    for name in (*slices.names(), "v5litepod-32"):
        (tmp_path / "mine.gin").write_text(f"include 'slices/{name}.gin'\n")
        for file in (f"slices/{name}.gin", f"gin/slices/{name}.gin", str(tmp_path / "mine.gin")):
            assert gin_reader.load([file]).get(slices.Slice) == slices.find(name)


def test_what_is_bound_elsewhere_stays_bound(tmp_path):
    (tmp_path / "mine.gin").write_text("slice.address = 'my-tpu'\ninclude 'slices/v3-64.gin'\nslice.zone = 'z'\n")
    for files in ([str(tmp_path / "mine.gin")], ["slices/v3-8.gin", str(tmp_path / "mine.gin")]):
        found = gin_reader.load(files).get(slices.Slice)
        assert (found.name, found.address, found.zone) == ("v3-64", "my-tpu", "z")


@pytest.mark.parametrize(
    ("file", "near"),
    [
        ("slices/v3-63.gin", r"'slices/v3-32.gin' or 'slices/v3-64.gin'"),
        ("slices/v5litepod-3.gin", r"'slices/v5e-1.gin' or 'slices/v5e-4.gin'"),
        ("slices/v3-0128.gin", r"'slices/v3-128.gin'"),
        ("slices/pod-129.gin", r"'slices/pod-128.gin'"),
        ("slices/v3-64", r"'slices/v3-64.gin'"),
        ("v3-64.gin", r"'slices/v3-64.gin'"),
    ],
)
def test_a_file_of_no_slice_is_answered_with_the_nearest(file, near, tmp_path):
    (tmp_path / "mine.gin").write_text(f"\ninclude '{file}'\n")
    for given, origin in ((file, "--gin_file"), (str(tmp_path / "mine.gin"), r"\S*mine.gin:2")):
        with pytest.raises(UserError, match=rf"^{origin}: no gin file '{file}' .*\(did you mean {near}\?\)$"):
            gin_reader.load([given])


def test_the_dry_run_says_so(run_module):
    done = run_module("pipeline.train", "--gin_file=algpt2.gin", "--gin_file=slices/v3-128.gin", "--dry_run")
    assert "replicas                128 on 16 hosts\n" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(("tpu", "replicas"), [("v3-8", 8), ("virtual-2", 2), ("pod-128", 128)])
def test_the_flag_overrides_it_and_says_so_in_one_line(tpu, replicas, capsys):
    run = load_run_config(V3_128, [], tpu)
    assert run.target.replicas == replicas
    note_overridden_slice(run.configuration, tpu)
    assert capsys.readouterr().err == f"note: --tpu={tpu} overrides slice.name = 'v3-128' (slices/v3-128.gin)\n"


def test_an_address_that_the_flag_overrides_is_said(capsys):
    run = load_run_config(["algpt2.gin"], ["slice.address=my-tpu"], "v3-8")
    note_overridden_slice(run.configuration, "v3-8")
    assert "--tpu=v3-8 overrides slice.address = 'my-tpu' (--gin_param=" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["auto", "offline"])
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WANDB_MODE", "ofline", r"WANDB_MODE=ofline: expected one of online, .*did you mean 'offline'"),
        ("WANDB_BASE_URL", "junk", "WANDB_BASE_URL=junk: expected an address such as https://"),
        ("WANDB_RUN_ID", "a/b c", "WANDB_RUN_ID=a/b c: expected an id without spaces"),
    ],
)
def test_what_weights_and_biases_would_reject_is_refused_before_anything_begins(
    monkeypatch, mode, variable, value, message
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        load_run_config(["algpt2.gin"], [f"train.wandb={mode}"], None)
    load_run_config(["algpt2.gin"], ["train.wandb=off"], None)


def test_part_of_a_slice_is_none():
    with pytest.raises(
        UserError, match=r"no value for slice.name, slice.generation, .* or with --gin_param=slice.name"
    ):
        load_run_config(["algpt2.gin"], ["slice.cores=8"], None)


def test_training_goes_to_its_address(listening):
    run = load_run_config(V3_128, [f"slice.address='grpc://{listening}'"], None)
    found = tpu_target.check(run.target, together=True)
    assert (found.address, found.slice.cores) == (f"grpc://{listening}", 128)


def test_training_without_an_address_names_the_setting(monkeypatch):
    monkeypatch.setattr(tpu_target, "tpu_attached", lambda: False)
    for variable in ("TPU_NAME", "COLAB_TPU_ADDR", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=r"slice.name='v3-128': no TPU .* as --tpu=v3-128@ADDRESS"):
        tpu_target.check(load_run_config(V3_128, [], None).target)


def test_what_is_asked_of_the_compiler_is_the_same_slice(monkeypatch):
    """By pipeline.train and by a sweep, whether gin or --tpu names the slice."""
    for files, tpu in ((V3_128, None), (V3_128, "v3-8@my-tpu"), (["algpt2.gin"], "v3-8")):
        run, asked = load_run_config(files, [], tpu), []

        def check(settings, model, optimizer, piece, asked=asked, **options):
            asked.append((settings, optimizer, piece))
            raise StopIteration

        monkeypatch.setattr(tpu_compiler, "require_compiler", lambda: "")
        monkeypatch.setattr(compile_step, "check", check)
        with pytest.raises(StopIteration):
            require_fit(run.settings, run.model, run.optimizer, run.target.slice)
        (cell,) = cells.resolve(cells.Base(gin_files=tuple(files), gin_params=(), data="", tpu=tpu), [{}])
        with pytest.raises(StopIteration):
            fitting._preflight(cell, cell.run.target.slice)
        assert asked == [(run.settings, run.optimizer, run.target.slice)] * 2


def test_a_sweep_has_one_slice():
    base = cells.Base(gin_files=("algpt2.gin",), gin_params=(), data="", tpu=None)
    with pytest.raises(
        UserError, match=r"slice.cores is the same for all cells; expected --tpu, a gin file or --gin_param"
    ):
        cells.resolve(base, [{"slice.cores": 8}])
