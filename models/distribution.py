"""Over which devices a descent is spread: one, several of this machine, several machines, or a TPU.

All replicas together take the batches that one device would take, a slice of each batch, so a run is the same run on
however many devices.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import tensorflow as tf

from schemas.errors import ModelError

Kind = Literal["one", "mirrored", "multi-worker", "tpu"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def kind_of(name: str) -> Kind:
    """The kind by its name.

    Raises:
      ModelError: there is none.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    raise ModelError(f"--strategy: expected one of {', '.join(KINDS)}, got '{name}'")


class Distribution:
    """How a descent is spread. `replicas` take a batch together; one of the processes that do is the chief.

    Raises:
      ModelError: there is no such cluster or TPU as the kind needs.
    """

    def __init__(self, kind: Kind = "one") -> None:
        # A strategy of several processes must be made before TensorFlow has done anything else.
        self._strategy = _STRATEGIES[kind]()
        self.replicas: int = self._strategy.num_replicas_in_sync
        resolver = self._strategy.cluster_resolver if kind == "multi-worker" else None
        self.is_chief = resolver is None or _is_chief(resolver)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Models and optimizers are built inside."""
        with self._strategy.scope(), tf.variable_creator_scope(_random_state_of_each_replica):
            yield

    def batches(self, dataset: Any, batch_size: int) -> Iterator[Any]:
        """Batches of (inputs, labels, weights), for `run` to take in a `tf.function`.

        Args:
          dataset: of global batches, at most `batch_size` long.
          batch_size: how long all but the last of a pass are.
        Raises:
          ModelError: the replicas cannot share a batch evenly.
        """
        if self.replicas == 1:
            return iter(dataset)
        if batch_size % self.replicas:
            raise ModelError(
                f"$.training.batch_size: expected a multiple of {self.replicas} (devices), got {batch_size}"
            )
        share = batch_size // self.replicas

        def cut(*batch: Any) -> Any:
            slices = tf.nest.map_structure(
                lambda part: tf.reshape(part, (self.replicas, share, *_shape_of_one(part))), _filled(batch, batch_size)
            )
            return tf.data.Dataset.from_tensor_slices(slices)

        def of_pipeline(context: Any) -> Any:
            local = self.replicas // context.num_input_pipelines
            first = context.input_pipeline_id * local

            def is_ours(index: Any, _: Any) -> Any:
                place = index % self.replicas
                return (place >= first) & (place < first + local)

            return dataset.flat_map(cut).enumerate().filter(is_ours).map(lambda _, batch: batch).prefetch(local)

        # A GPU holds no strings, such as keys: they stay on the host.
        texts = any(part.dtype == tf.string for part in tf.nest.flatten(dataset.element_spec))
        options = tf.distribute.InputOptions(experimental_fetch_to_device=not texts)
        found: Iterator[Any] = iter(self._strategy.distribute_datasets_from_function(of_pipeline, options))
        return found

    def run(self, step: Callable[..., Any], batch: Any) -> Any:
        """Runs a step on every replica's slice of a batch; the step's result must be the same on all of them."""
        return self._strategy.experimental_local_results(self._strategy.run(step, args=batch))[0]


def summed(tensors: Any) -> Any:
    """Within a step: the sums of all replicas' tensors."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _shape_of_one(part: Any) -> list[Any]:
    """The shape of a row of a batch; what is not fixed, such as a text's length, is a tensor."""
    now = tf.shape(part)
    return [now[axis] if size is None else size for axis, size in enumerate(part.shape)][1:]


def _filled(batch: Any, size: int) -> Any:
    """A batch as long as all others: with copies of its last row, which weigh nothing."""
    inputs, labels, weights = batch
    missing = size - tf.shape(weights)[0]

    def repeated(part: Any) -> Any:
        longer = tf.concat((part, tf.repeat(part[-1:], missing, axis=0)), axis=0)
        return tf.ensure_shape(longer, (size, *part.shape[1:]))

    none = tf.zeros(tf.concat(([missing], tf.shape(weights)[1:]), axis=0), weights.dtype)
    weights = tf.ensure_shape(tf.concat((weights, none), axis=0), (size, *weights.shape[1:]))
    return *tf.nest.map_structure(repeated, (inputs, labels)), weights


def _random_state_of_each_replica(create: Callable[..., Any], **options: Any) -> Any:
    # Keras says of a dropout's state that it is never aggregated, which no strategy lets a replica assign.
    if options.get("name", "").endswith("seed_generator_state"):
        options |= {"aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA}
    return create(**options)


def _is_chief(resolver: Any) -> bool:
    kind, number = resolver.task_type, resolver.task_id
    return kind == "chief" or (kind == "worker" and number == 0 and "chief" not in resolver.cluster_spec().as_dict())


def _multi_worker() -> Any:
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])
        workers = sum(len(cluster["cluster"].get(name, ())) for name in ("chief", "worker"))
        task = cluster["task"]["type"], int(cluster["task"]["index"])
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise ModelError(
            "--strategy multi-worker: expected the environment variable TF_CONFIG to hold the cluster and this task, "
            'such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
        ) from exc
    if not workers or task[0] not in ("chief", "worker"):
        raise ModelError(f"TF_CONFIG: expected a task of a cluster's workers, got {task[0]} {task[1]} of {workers}")
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu() -> Any:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as exc:
        raise ModelError(f"--strategy tpu: expected a TPU, found none: {str(exc).splitlines()[0]}") from exc
    return tf.distribute.TPUStrategy(resolver)


def _mirrored() -> Any:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


_STRATEGIES: dict[Kind, Callable[[], Any]] = {
    "one": tf.distribute.get_strategy,
    "mirrored": _mirrored,
    "multi-worker": _multi_worker,
    "tpu": _tpu,
}
