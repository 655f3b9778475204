"""What the optimizers are compared on: each task with its model, batches and loss.

A name says it all: ``tweets-500-small`` are 500 tweets on the first 3 layers of MiniLM
with 32 tokens a row, ``bbc-5000-full`` at most 5,000 news on all 6 layers with 48;
``digits-500`` are images for a small network of convolutions, and
``language_model-2000`` windows of news for a small Transformer, both from scratch.
"""

import functools

from from_scratch import digits_task, language_task
from task import Setup, Task
from text_task import SIZES, text_task

FROM_SCRATCH = {"digits": digits_task, "language_model": language_task}


@functools.lru_cache(maxsize=2)
def make_task(name: str, setup: Setup) -> Task:
    """Returns the task of a name such as ``tweets-500-small``."""
    source, num_train, *size = name.split("-")
    if source in FROM_SCRATCH:
        return FROM_SCRATCH[source](int(num_train), setup)
    return text_task(source, int(num_train), SIZES[size[0]], setup)
