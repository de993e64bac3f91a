"""Both ways to run a SavedModel, in a process of their own: TensorFlow stays out of the tests' process."""

import subprocess
import sys

import pytest

from tests.conformance.server_process import REPOSITORY

CODE = """
import sys
from pathlib import Path
import numpy as np
from streaming.model_server import saved_model_bundle as bundles
from streaming.model_server.servable import Servable
from streaming.model_server.call import UNBOUNDED

kind, folder = sys.argv[1:]
load = getattr(bundles, kind)
servable = Servable("m", 1, load(Path(folder, "masked_sequences", "1"), bundles.SessionOptions()))
signature = servable.signatures["serving_default"]
alone = np.load(Path(folder, "masked_sequences", "alone.npz"))
for length in (1, 5, 12):
    arrays = {"values": alone[f"x{length}"], "observed": np.ones((2, length), bool)}
    (y,) = servable.run(signature.feeds, [arrays[ref.alias] for ref in signature.feeds], signature.fetches, UNBOUNDED)
    assert np.abs(y - alone[f"y{length}"]).max() < 1e-5

servable = Servable("h", 1, load(Path(folder, "half_plus_two", "123"), bundles.SessionOptions()))
signature = servable.signatures["serving_default"]
(y,) = servable.run(signature.feeds, [np.array([[2.0]], np.float32)], signature.fetches, UNBOUNDED)
assert y.tolist() == [[3.0]], y
try:
    load(Path(folder, "half_plus_two", "123"), bundles.SessionOptions(tags=("gpu",)))
except Exception as error:
    assert "gpu" in str(error)
else:
    raise AssertionError("loaded with wrong tags")
servable.unload()
assert not servable.acquire()
"""


@pytest.mark.parametrize("kind", ["SessionBundle", "EagerBundle"])
def test_results(models, kind):
    command = [sys.executable, "-c", CODE, kind, str(models)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
