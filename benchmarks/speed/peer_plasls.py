"""PLASLS in PyTorch, written from its formulas: `optax_armijo.plasls` has them."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from peer_groups import turn


class Slot(NamedTuple):
    """A parameter with Adam's moments, which are updated in place."""

    param: torch.nn.Parameter
    first: torch.Tensor
    second: torch.Tensor


class PLASLS:
    """Adam with a step size for each group, one of them searched a step, in turn.

    As released: a trial has no momentum and the step has it, and the groups before the
    searched one have made this step's move when it is tried, while the loss that it is
    tested against is from before. A search that finds nothing still steps, by what is
    left of its step size. In the joint steps the slope is the sum over all groups.
    """

    def __init__(
        self,
        groups: Sequence[Iterable[torch.nn.Parameter]],
        *,
        c: float = 0.1,
        decrease_factor: float = 0.9,
        increase_factor: float = 2 ** (1 / 500),
        init_step_size: float = 0.1,
        max_trials: int = 100,
        num_joint_steps: int = 6,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
    ):
        self.groups = [
            [Slot(p, torch.zeros_like(p), torch.zeros_like(p)) for p in group]
            for group in groups
        ]
        self.step_sizes = [init_step_size] * len(self.groups)
        self.c, self.max_trials = c, max_trials
        self.decrease_factor, self.increase_factor = decrease_factor, increase_factor
        self.num_joint_steps = num_joint_steps
        self.b1, self.b2, self.eps = b1, b2, eps
        self.count = 0

    @torch.no_grad()
    def step(self, closure: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Makes a step; ``closure`` gives the loss, with ``backwards`` its gradient."""
        with torch.enable_grad():
            loss = closure(backwards=True)
        searched = turn(self.count, self.num_joint_steps, len(self.groups))
        self.count += 1
        slots = [slot for group in self.groups for slot in group]
        self._update_moments(slots)
        self.step_sizes = [self.increase_factor * size for size in self.step_sizes]
        if searched is None:
            common = self._search(slots, self.step_sizes[0], loss, closure)
            self.step_sizes = [common] * len(self.groups)
        for i, group in enumerate(self.groups):
            if i == searched:
                found = self._search(group, self.step_sizes[i], loss, closure)
                self.step_sizes[i] = found
            self._move(group, self.step_sizes[i])
        return loss

    def _update_moments(self, slots: Iterable[Slot]) -> None:
        for param, first, second in slots:
            first.lerp_(param.grad, 1 - self.b1)
            second.mul_(self.b2).addcmul_(param.grad, param.grad, value=1 - self.b2)

    def _search(
        self,
        slots: Sequence[Slot],
        step_size: float,
        loss: torch.Tensor,
        closure: Callable[..., torch.Tensor],
    ) -> float:
        """Shrinks a step size until a trial passes Armijo's test; leaves params."""
        params = [slot.param for slot in slots]
        before = [param.clone() for param in params]
        directions = [slot.param.grad / self._scale(slot) for slot in slots]
        slope = sum(
            (param.grad * direction).sum()
            for param, direction in zip(params, directions, strict=True)
        )
        for _ in range(self.max_trials):
            for param, old, direction in zip(params, before, directions, strict=True):
                torch.add(old, direction, alpha=-step_size, out=param)
            if closure() <= loss - self.c * step_size * slope:
                break
            step_size *= self.decrease_factor
        for param, old in zip(params, before, strict=True):
            param.copy_(old)
        return step_size

    def _move(self, slots: Iterable[Slot], step_size: float) -> None:
        """Makes Adam's step, momentum and all."""
        step_size /= 1 - self.b1**self.count
        for slot in slots:
            slot.param.addcdiv_(slot.first, self._scale(slot), value=-step_size)

    def _scale(self, slot: Slot) -> torch.Tensor:
        """The root of the corrected second moment, which directions are divided by."""
        return (slot.second / (1 - self.b2**self.count)).sqrt_().add_(self.eps)
