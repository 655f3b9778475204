"""The methods in PyTorch, on Hugging Face's BERT with the job's weights."""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from batches import Batch
from peer_groups import by_layer
from peer_plasls import PLASLS
from peer_process import Job, Step
from salsa.SaLSA import SaLSA  # pyright: ignore[reportMissingImports]
from transformers import BertConfig, BertForSequenceClassification

Closure = Callable[..., torch.Tensor]


def adam(model: Any) -> Callable[[Closure], torch.Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    return lambda closure: optimizer.step(partial(closure, backwards=True))


def searching_each_layer(model: Any) -> Callable[[Closure], torch.Tensor]:
    params = dict(model.named_parameters())
    groups = by_layer(params).values()
    return PLASLS([[params[name] for name in names] for names in groups]).step


# Each makes a step when it is given ``closure(backwards=False) -> loss``.
METHODS: dict[str, Callable[[Any], Callable[[Closure], torch.Tensor]]] = {
    "torch.optim.Adam": adam,
    "SaLSA-Optimizer": lambda model: SaLSA(model.parameters()).step,
    "PLASLS": searching_each_layer,
}


class Trainer:
    """Model and optimizer of one method."""

    compiling = 0.0

    def __init__(self, method: str, job: Job):
        torch.set_num_threads(os.cpu_count() or 1)
        self.batches = job.batches
        config = BertConfig.from_dict(job.config)
        config.num_labels = len(job.weights["classifier.bias"])
        self.model: Any = BertForSequenceClassification(config)
        weights = {k: torch.from_numpy(v.copy()) for k, v in job.weights.items()}
        self.model.load_state_dict(weights)
        self.model.eval()  # no dropout
        self.make_step = METHODS[method](self.model)

    def step(self, number: int) -> Step:
        """Makes a step; counts how often it asks for the loss."""
        start = time.perf_counter()
        batch = Batch(*map(torch.from_numpy, self.batches[number]))
        losses: list[torch.Tensor] = []

        def closure(backwards: bool = False) -> torch.Tensor:
            loss = self.loss(batch)
            losses.append(loss.detach())
            if backwards:
                loss.backward()
            return loss

        self.model.zero_grad()
        self.make_step(closure)
        seconds = time.perf_counter() - start
        return Step(losses[0].item(), len(losses) - 1, seconds)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean cross entropy over the rows that do not fill up the batch."""
        inputs = batch._asdict()
        labels, weights = inputs.pop("labels"), inputs.pop("weights")
        logits = self.model(**inputs).logits
        cross_entropy = torch.nn.functional.cross_entropy
        losses = cross_entropy(logits, labels.long(), reduction="none")
        return (losses * weights).sum() / weights.sum()

    def weights(self) -> dict[str, np.ndarray]:
        return {k: v.detach().numpy() for k, v in self.model.named_parameters()}
