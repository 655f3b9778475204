"""Adam at learning rates that others use, for examples to compare with."""

from typing import Any

import jax
import optax

# The defaults of gsplat's trainer (github.com/nerfstudio-project/gsplat,
# examples/simple_trainer.py) for a scene of size 1, in 30,000 steps. Its rate of
# positions falls to a hundredth over the run.
GSPLAT = {"position": 1.6e-4, "log_scale": 5e-3, "rotation": 1e-3}
GSPLAT |= {"colour": 2.5e-3, "opacity": 5e-2, "camera": 1e-5}

# The rate of A that is common for LoRA, and how many times as high that of B is.
LORA_RATE, LORA_PLUS_RATIO = 2e-4, 16


def gsplat_rates(num_steps: int) -> dict[str, Any]:
    """A rate, or a schedule, for each part of a splat."""
    falling = optax.exponential_decay(GSPLAT["position"], num_steps, 0.01)
    return GSPLAT | {"position": falling}


def gsplat_adam(labels: Any, num_steps: int) -> optax.GradientTransformation:
    """Adam with gsplat's rates for the parts of a splat."""
    rates = gsplat_rates(num_steps).items()
    adam: Any = {part: optax.adam(rate, eps=1e-15) for part, rate in rates}
    return optax.partition(adam, labels)


def adamw(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """AdamW that decays matrices alone."""
    return optax.adamw(rate, weight_decay=0.01, mask=matrices)


def lora_plus(rate: float, num_steps: int) -> optax.GradientTransformation:
    """LoRA+ (arXiv 2402.12354): AdamW at one rate for A and a higher one for B.

    As in the authors' code (github.com/nikhil-ghosh-berkeley/loraplus), vectors have
    the rate of B, and matrices outside the adapters that of A.
    """

    def part(path: Any, leaf: jax.Array) -> str:
        is_b = leaf.ndim == 1 or "lora_b" in jax.tree_util.keystr(path)
        return "B" if is_b else "A"

    rates = {"A": rate, "B": LORA_PLUS_RATIO * rate}
    two: Any = {k: adamw(warm_up_and_cosine(x, num_steps)) for k, x in rates.items()}
    return optax.partition(two, lambda p: jax.tree_util.tree_map_with_path(part, p))


def matrices(params: Any) -> Any:
    """Which leaves are matrices, or have more axes."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def warm_up_and_cosine(rate: float, num_steps: int) -> optax.Schedule:
    """Rises to a rate in a tenth of the steps, and falls to 0 as a cosine."""
    curve = optax.warmup_cosine_decay_schedule(
        0.0, rate, max(1, num_steps // 10), num_steps + 1
    )
    # Neither the first nor the last step is wasted on a learning rate of 0.
    return lambda count: curve(count + 1)
