"""One of several processes that train together; `test_processes.py` starts them.

``python process_worker.py COORDINATOR NUM_PROCESSES PROCESS_ID NAME ...``
writes what it saw of each named run as one line of JSON.
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from many_devices import NETWORK, batches_of, train

from optax_armijo import armijo_adam, make_train_step

NUM_STEPS = 4


def place(mesh, tree, *, is_split):
    """Makes arrays over all processes; each holds the whole tree and gives its part."""

    def put(leaf):
        array = np.asarray(leaf)
        fits = is_split and array.ndim > 0 and array.shape[0] % mesh.size == 0
        sharding = NamedSharding(mesh, PartitionSpec("data" if fits else None))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree)


def main(coordinator, num_processes, process_id, names):
    # Before the first computation: from then on all devices are known to be one's own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    tx = armijo_adam(NETWORK.labels)
    runs = {}
    for name in names:
        params = place(mesh, NETWORK.params(), is_split=name == "fully sharded")
        batches = [place(mesh, x, is_split=True) for x in batches_of(NUM_STEPS)]
        step = make_train_step(NETWORK.loss_fn, tx)
        run = train(step, params, tx.init(params), batches)
        runs[name] = {
            "losses": run.losses.tolist(),
            "step_sizes": run.step_sizes.tolist(),
            "num_trials": run.num_trials.tolist(),
            "num_devices": mesh.size,
            "num_own_devices": jax.local_device_count(),
        }
    print(json.dumps(runs), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
