"""One method in a process of its own, which makes a step when it is told to.

So its peak memory is that of one method in one framework, and the parent has the steps
of all methods made in turn, each while the others wait.
"""

import importlib
import resource
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from batches import Batch


class Job(NamedTuple):
    """What every method starts from.

    Attributes:
      task: its name, as in `tasks`.
      config: of the BERT, as its ``config.json`` has it.
      weights: by their names in Hugging Face's ``BertForSequenceClassification``.
      batches: one a step.
    """

    task: str
    config: dict[str, Any]
    weights: dict[str, np.ndarray]
    batches: list[Batch]


class Step(NamedTuple):
    """What a step tells.

    Attributes:
      loss: before the step.
      evaluations: of the loss, beside the one that comes with the gradient.
      seconds: that it took.
    """

    loss: float
    evaluations: int
    seconds: float


class Peer:
    """The parent's end of a method's process.

    Attributes:
      module: its ``Trainer`` makes the steps.
      method: its name there.
      imported: bytes that the process has held at most when all is imported.
      built: the same when model and optimizer are built, and the step compiled.
      compiling: seconds that compiling took.
    """

    def __init__(self, module: str, method: str):
        self.module, self.method = module, method
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        context.Process(
            target=_serve, args=(theirs, module, method), daemon=True
        ).start()
        theirs.close()  # else a process that ends would be waited for
        self.imported: int = self._answer()
        self.built, self.compiling = 0, 0.0

    def prepare(self, job: Job) -> None:
        """Has model and optimizer built, and compiled what is to be compiled."""
        self.built, self.compiling = self._ask(job)

    def step(self, number: int) -> Step:
        """Has a step made, on the batch of that number."""
        return self._ask(number)

    def finish(self) -> tuple[int, dict[str, np.ndarray]]:
        """Ends the process; returns the bytes that it held at most, and the weights."""
        return self._ask(None)

    def _ask(self, message: Any) -> Any:
        self._connection.send(message)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise RuntimeError(
                f"{self.method}: its process has ended; why is written above"
            ) from None


def _serve(connection: Connection, module: str, method: str) -> None:
    """The process: answers the messages of `Peer` in their order."""
    make_trainer = importlib.import_module(module).Trainer
    connection.send(peak_memory())
    trainer = make_trainer(method, connection.recv())
    connection.send((peak_memory(), trainer.compiling))
    for number in iter(connection.recv, None):
        connection.send(trainer.step(number))
    connection.send((peak_memory(), trainer.weights()))


def peak_memory() -> int:
    """Bytes that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
