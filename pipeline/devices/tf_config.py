"""The processes that train together without a TPU, from TF_CONFIG: usually one per machine with GPUs.

Imports only the standard library. Format: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG.
"""

import json
import os
from dataclasses import dataclass

from pipeline.errors import UserError

EXPECTED = '{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'
JOBS = ("chief", "worker")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Several workers, including this process.

    Args:
        addresses: HOST:PORT of each, in the same order everywhere.
        index: Index of this process; 0 is the chief, the only one that writes.
    """

    addresses: tuple[str, ...]
    index: int


def here() -> Cluster | None:
    """Returns TF_CONFIG's cluster, None without two workers; UserError if it is malformed or names other jobs."""
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        document = json.loads(text)
        jobs = {job: tuple(addresses) for job, addresses in document.get("cluster", {}).items()}
        addresses = tuple(address for job in JOBS for address in jobs.get(job, ()))
        kind, number = str(document.get("task", {}).get("type")), document.get("task", {}).get("index")
        if not all(isinstance(address, str) and ":" in address for address in addresses):
            raise ValueError
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"TF_CONFIG={text[:80]!r} cannot be understood; expected {EXPECTED}") from None
    others = [job for job in (*jobs, kind) if job not in JOBS and job != "None"]
    if others:
        raise UserError(
            f"TF_CONFIG names the job {others[0]!r}; expected workers only, which hold the weights and evaluate"
        )
    if len(addresses) < 2:
        return None
    if kind not in jobs or not isinstance(number, int) or not 0 <= number < len(jobs[kind]):
        raise UserError(
            f"TF_CONFIG's task {kind} {number} is not one of its {len(addresses)} workers; expected {EXPECTED}"
        )
    return Cluster(addresses=addresses, index=number + (len(jobs.get("chief", ())) if kind == "worker" else 0))
