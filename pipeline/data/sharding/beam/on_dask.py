"""Beam's DaskRunner, with what sharding needs and it lacks.

In Beam 2.77 its Reshuffle does nothing, so everything from one element stays one task of one worker; its GroupByKey
exchanges every partition with every other. Source: apache_beam/runners/dask/transform_evaluator.py.
"""

import contextlib

import dask.bag
import distributed
from apache_beam.runners.dask import overrides, transform_evaluator
from apache_beam.runners.dask.dask_runner import DaskRunner

from pipeline.errors import UnavailableError


class Spread(transform_evaluator.DaskBagOp):
    """Reshuffle: an even share of the elements for every partition."""

    def apply(self, input_bag: dask.bag.Bag, side_inputs: None = None) -> dask.bag.Bag:
        """Gathers the elements and cuts them up."""
        return input_bag.repartition(1).repartition(self.bag_kwargs["npartitions"])


class Group(transform_evaluator.GroupByKey):
    """GroupByKey of what one worker can hold."""

    def apply(self, input_bag: dask.bag.Bag, side_inputs: None = None) -> dask.bag.Bag:
        """Groups the elements in one partition."""
        return super().apply(input_bag.repartition(1), side_inputs)


def runner() -> DaskRunner:
    """Returns Beam's DaskRunner with both."""
    transform_evaluator.TRANSLATIONS[overrides._Reshuffle] = Spread
    transform_evaluator.TRANSLATIONS[overrides._GroupByKeyOnly] = Group
    return DaskRunner()


def leave() -> None:
    """Closes the connection to the cluster, and the cluster too if the job started it."""
    with contextlib.suppress(ValueError):  # there is none
        distributed.default_client().close()


def fault(error: Exception) -> UnavailableError | None:
    """Says in one sentence what is wrong with the cluster, if an error of Dask's is about that."""
    if isinstance(error, OSError) and "trying to connect" in str(error):
        return UnavailableError(f"--runner=DaskRunner: no scheduler answers: {error}")
    if isinstance(error, ModuleNotFoundError) or "different environments" in str(error):
        return UnavailableError(
            "--runner=DaskRunner: the scheduler or a worker was started without this folder in its PYTHONPATH, or in "
            "another environment; docs/beam.md has the commands"
        )
    if isinstance(error, distributed.KilledWorker):
        return UnavailableError(f"--runner=DaskRunner: {error}")
    return None
