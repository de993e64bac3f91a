"""One process of a training over several devices: `python -m tests.models.distributed STRATEGY SPEC DATA OUTPUT`.

Two logical devices of this machine's CPU stand for two GPUs. They can only be made before TensorFlow has done anything.
"""

from __future__ import annotations

import sys

import tensorflow as tf

from tidegauge import main

if __name__ == "__main__":
    strategy, spec, data, output = sys.argv[1:]
    if strategy == "mirrored":
        [cpu] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    arguments = ["--spec", spec, "--data", data, "--output", output, "--strategy", strategy, "--json"]
    sys.exit(main(["train", *arguments]))
