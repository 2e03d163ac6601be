"""Two processes under MultiWorkerMirroredStrategy read disjoint parts and train to the weights of one process."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


@pytest.mark.slow
def test_two_workers_are_one(small_data, project_root, tmp_path):
    def start(name, *arguments):
        log = open(tmp_path / f"{name}.log", "w")  # noqa: SIM115
        command = [sys.executable, "tests/tools/worker.py", str(small_data), str(tmp_path / f"{name}.npz"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(project_root), "CUDA_VISIBLE_DEVICES": "-1"}
        return subprocess.Popen(command, cwd=project_root, env=environment, stdout=log, stderr=log)

    addresses = free_addresses(2)
    processes = {
        "alone": start("alone", "0"),
        "first": start("first", "0", *addresses),
        "second": start("second", "1", *addresses),
    }
    try:
        for name, process in processes.items():
            assert process.wait(timeout=300) == 0, (tmp_path / f"{name}.log").read_text()[-3000:]
    finally:
        for process in processes.values():
            process.kill()
    alone, first, second = (np.load(tmp_path / f"{name}.npz") for name in processes)

    assert not set(first["indices"]) & set(second["indices"])
    assert sorted([*first["indices"], *second["indices"]]) == sorted(alone["indices"]) == list(range(6 * 8))
    assert (first["indices"] % 2 == 0).all() and (second["indices"] % 2 == 1).all(), "each reads its own slots"
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-6)
    for name in alone.files:
        if name not in ("indices", "losses"):
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
            np.testing.assert_allclose(first[name], alone[name], rtol=0, atol=1e-6, err_msg=name)
    assert not (tmp_path / "second.npz.checkpoints").exists(), "one worker writes"
    assert (tmp_path / "first.npz.checkpoints").exists()
