"""The JSON of many predictions, written at once, is that of each by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from schemas.prediction import ModelVersion, Prediction, PredictionWriter
from tests.specs import tiny_spec

SPEC = tiny_spec(
    stream={
        "name": "tiny",
        "features": [
            {"name": "load", "role": "target", "unit": '100 %b "MW"'},
            {"name": "heat", "role": "target", "unit": "°C"},
        ],
    }
)
FLOATS = st.floats(width=32, allow_nan=True)
MODEL = ModelVersion("m", 1, "f" * 32)


def numbers(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, shape, elements=FLOATS)


def predictions(levels: tuple[float, ...]) -> st.SearchStrategy[Prediction]:
    return st.builds(
        Prediction,
        key=st.text(st.characters(codec="utf-8"), max_size=5),
        origin_ms=st.integers(-(2**40), 2**45),
        mean=numbers(2, 2),
        last_observed=numbers(2),
        last_observed_ms=arrays.arrays(np.int64, 2, elements=st.integers(-(2**40), 2**45)),
        observed_fraction=st.floats(0, 1),
        window_digest=st.just("7420dc900d16df8e"),
        model=st.sampled_from([MODEL, replace(MODEL, version=2)]),
        levels=st.just(levels),
        quantiles=numbers(2, 2, len(levels)),
        role=st.sampled_from(["champion", "shadow"]),
        latency_ms=st.one_of(st.none(), st.floats(0, 1e6)),
    )


@given(st.lists(st.one_of(predictions(()), predictions((0.05, 0.5))), max_size=5))
def test_values_are_those_of_the_documents(found: list[Prediction]) -> None:
    writer = PredictionWriter(SPEC)
    expected = [orjson.dumps(writer.document(one), option=orjson.OPT_SERIALIZE_NUMPY) for one in found]
    assert writer.values(found) == expected
