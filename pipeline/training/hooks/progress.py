"""The line of progress."""

from pipeline.progress import OF_STEPS
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Runtime, State


class ShowProgress(Hook):
    """Shows loss, gradient norm, speed, and the time left."""

    def __init__(self, state: State, runtime: Runtime):
        self._state, self._runtime = state, runtime

    def after_steps(self, info: StepInfo) -> None:
        """Shows the line."""
        record, progress = self._state.record, self._runtime.progress
        if info.seconds is None:
            speed = [f"compiled in {self._runtime.clock.seconds()['compile']:.0f} s"]
        else:
            speed = [f"{record['tokens_per_second']:,.0f} tokens/s"]
            speed += [f"{record['mfu']:.0%} of peak"] if record["mfu"] else []
        left = progress.seconds_left(info.step)
        progress.show(
            f"step {info.step:,}/{progress.total:,}",
            f"loss {record['loss']:.4f}",
            f"grad norm {record['grad_norm']:.3f}",
            *speed,
            *([] if left is None else [f"{clock_time(left)} left"]),
            spare=OF_STEPS,
            done=info.step,
        )

    def close(self) -> None:
        """Leaves the last line where it is."""
        self._runtime.progress.keep()


def clock_time(seconds: float) -> str:
    """Spells seconds as '2:47' or '1:02:47'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
