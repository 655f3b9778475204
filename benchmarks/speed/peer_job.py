"""What all methods start from, and how they are scored: both by JAX, in the parent."""

from itertools import count, islice

import numpy as np
from peer_process import Job
from peer_weights import from_weights, to_weights
from pretrained import load_pretrained
from task import EPOCH_ROWS, Setup, Task
from tasks import make_task

SEED = 0


def make_job(rows: int, num_steps: int) -> tuple[Job, Task]:
    """The main job: pretrained MiniLM on so many tweets, without dropout."""
    name = f"tweets-{rows}-full"
    task = make_task(name, Setup())
    batches = (batch for epoch in count() for batch in task.batches(SEED, epoch))
    job = Job(
        task=name,
        config=load_pretrained("minilm").config.to_dict(),
        weights=to_weights(task.init(SEED)),
        batches=list(islice(batches, num_steps)),
    )
    return job, task


def scores(task: Task, weights: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and log loss on the first validation rows."""
    return task.evaluate(from_weights(weights, task.init(SEED)), EPOCH_ROWS)
