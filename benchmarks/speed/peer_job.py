"""What all methods start from, and how they are scored: both by JAX, in the parent."""

from itertools import count, islice

import numpy as np
from bert import load_pretrained
from peer_process import Job
from peer_weights import from_weights, to_weights
from tasks import Task, make_task

SEED = 0


def make_job(name: str, num_steps: int) -> tuple[Job, Task]:
    """A task that fine-tunes all of MiniLM, without dropout."""
    task = make_task(name)
    batches = (batch for epoch in count() for batch in task.batches(SEED, epoch))
    job = Job(
        task=name,
        config=load_pretrained("minilm").config.to_dict(),
        weights=to_weights(task.init(SEED)),
        batches=list(islice(batches, num_steps)),
    )
    return job, task


def scores(task: Task, weights: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy and log loss on the validation rows."""
    found = task.evaluate(from_weights(weights, task.init(SEED)))
    return {"accuracy": found["score"], "log_loss": found["loss"]}
