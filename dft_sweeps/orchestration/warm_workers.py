"""Workers that train one trial after another: a Ray Train run whose training function takes jobs until it is ended.

To start one takes 10 s and more on two cores (a controller, a placement group, processes, imports of torch and
transformers); with it up, a trial starts in about one. A group lives in its driver's process and ends with it. It is
given up when a process of it dies or raises an error: the next attempt gets new processes.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dft_sweeps.orchestration.mailbox import now_ms

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from dft_sweeps.orchestration.trial import TrialJob
    from dft_sweeps.spec.models import ExecutionSpec

_LOOK_S = 0.5
"""How often a driver looks whether its workers are still there."""
_END_S = 20.0
"""How long a group may take to give its resources back; what is left then ends with its driver."""
_UNUSED_S = 30.0
"""How long Tune may take to give a group the job that it was freed for. It may have given the job to another driver,
whose workers may then find no place while it keeps this one."""


class WorkerGroup:
    """The driver's side: starts its workers at once, and hands them trials one by one."""

    def __init__(self, execution: ExecutionSpec, storage: str, mailbox: ActorHandle) -> None:
        self._name = f"workers-{uuid.uuid4().hex[:12]}"  # Ray Train silently resumes a run whose name it knows
        self._mailbox = mailbox
        self._jobs = 0
        self._error: BaseException | None = None
        self._used = threading.Lock()
        """Held while it has a job, and for ever once it is to end."""
        self._used.acquire()
        self._thread = threading.Thread(target=self._fit, args=(execution, storage), name="ray train", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def claim(self) -> bool:
        """Takes the group, which has done a job, for another. False if it has ended or is to."""
        if not self.alive or not self._used.acquire(blocking=False):
            return False
        self._unused.cancel()
        return True

    def train(self, job: TrialJob) -> None:
        """Has the workers do a job, and waits until there is another for them; the group ends if none is to come or
        something else lacks its room.

        Raises:
            ray.train.TrainingFailedError: a worker died or raised an error; the group has ended.
            ray.exceptions.RayError: another process of it died.
        """
        import ray

        # By reference, so that the mailbox' process needs not know what a job is.
        handed = [ray.put((job, now_ms()))]
        if ray.get(self._mailbox.hand_over.remote(self._name, job.training_id, job.until, handed)):
            self._wait_done()
        if ray.get(self._mailbox.freed.remote(self._name)):
            self._unused = threading.Timer(_UNUSED_S, self._end_unused)
            self._unused.daemon = True
            self._unused.start()
            self._used.release()
        else:
            ray.get(self._mailbox.end.remote(self._name))
            self._thread.join(_END_S)

    def _end_unused(self) -> None:
        import ray

        if self._used.acquire(blocking=False):
            ray.get(self._mailbox.end.remote(self._name))

    def _wait_done(self) -> None:
        import ray

        number, self._jobs = self._jobs, self._jobs + 1
        done = self._mailbox.wait_done.remote(self._name, number)
        while not ray.wait([done], timeout=_LOOK_S)[0]:
            if not self.alive:
                assert self._error is not None, "the workers ended by themselves"
                raise self._error
        ray.get(done)

    def _fit(self, execution: ExecutionSpec, storage: str) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from dft_sweeps.orchestration.process_group import ProcessGroup

        gpus = {"GPU": execution.gpus_per_worker} if execution.gpus_per_worker else {}
        trainer = TorchTrainer(
            train_trials,
            train_loop_config={"group": self._name, "mailbox": self._mailbox},
            torch_config=ProcessGroup(),
            scaling_config=ScalingConfig(
                num_workers=execution.workers,
                use_gpu=execution.gpus_per_worker > 0,
                resources_per_worker={"CPU": execution.cpus_per_worker} | gpus,
            ),
            run_config=RunConfig(name=self._name, storage_path=str(Path(storage) / "ray" / "train")),
        )
        try:
            trainer.fit()
        except Exception as error:  # raised where a trial is waited for
            self._error = error


def train_trials(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker: the group's trials, in the order in which the driver hands them over."""
    import ray
    from ray import train as ray_train

    from dft_sweeps.orchestration.worker import train_trial

    group, mailbox = config["group"], config["mailbox"]
    first_rank = ray_train.get_context().get_world_rank() == 0
    for number in itertools.count():
        handed = ray.get(mailbox.job.remote(group, number))
        if not handed:
            return
        job, driver_started_ms = ray.get(handed[0])
        if number:
            _forget_the_last(job.execution.compile)
        train_trial(job, mailbox, driver_started_ms)
        if first_rank:
            ray.get(mailbox.done.remote(group, job.training_id, job.until))


def _forget_the_last(compiled: bool) -> None:
    """Frees what the trial before has left, so that memory and compiled code are as in a new process."""
    import gc

    import torch

    from dft_sweeps.training.loop import reset_peak_memory

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if compiled:
        torch.compiler.reset()
    reset_peak_memory()
