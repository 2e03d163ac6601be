"""Trains one cell of the study: ``pipeline.train`` with the frozen Adafactor as one more optimizer.

python -m tools.study.train --gin_file=study.gin --gin_param=… --data=… --run_dir=…
"""

from pipeline import cli, train
from pipeline.config import gin_reader
from pipeline.optimizers.build import CLASSES
from tools.study.frozen_adafactor import FrozenAdafactorConfig, frozen_adafactor


def register() -> None:
    """Lets gin choose ``train.optimizer = 'frozen_adafactor'``, in the study's own processes only."""
    gin_reader.SURFACES["FrozenAdafactor"] = FrozenAdafactorConfig
    gin_reader.OPTIMIZERS["frozen_adafactor"] = FrozenAdafactorConfig
    CLASSES[FrozenAdafactorConfig] = frozen_adafactor


def main() -> int:
    """Trains with the frozen optimizer as one of those that gin can choose."""
    register()
    return train.main()


if __name__ == "__main__":
    cli.run(main, train.define_flags)
