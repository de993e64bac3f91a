"""The tokeniser in the graph gives the ids of the tokeniser in Python, for all of Unicode."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.text.graph import NormaliserGraph, TextGraph
from pipelines.kernels.text import SENTENCE_ENDS, Encoder, Normaliser, Tokeniser
from pipelines.kernels.unicode_tables import CharacterClass, unicode_tables
from schemas.text_spec import Text

TABLES = unicode_tables()


def characters(codes: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([chr(code) for code in codes])


# Everything, and more of what interacts: what attaches, composes, decomposes, changes case, is dropped or ends.
TRICKY = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    characters(np.flatnonzero(TABLES.attaching)),
    characters([first for first, _ in TABLES.compositions]),
    characters(TABLES.decompositions),
    characters(TABLES.lower),
    characters(np.flatnonzero(TABLES.classes == CharacterClass.DROPPED)),
    st.sampled_from(f"aeo \t\n\x00_0\u0301\u0323\u1100\u1161\u11a8{SENTENCE_ENDS}"),
)
DOCUMENTS = st.lists(st.text(TRICKY), min_size=1, max_size=6)
CASES: list[dict[str, Any]] = [
    {"unit": "word", "rows": {"by": "sentences", "length": 3}, "length": 12},
    {"unit": "word", "lower": False, "rows": {"by": "chunks", "length": 4}},
    {"unit": "character", "length": 9},
    {"unit": "character", "lower": False},
    {"unit": "byte", "rows": {"by": "chunks", "length": 4}, "length": 9},
]


def half_vocabulary(text: Text, documents: Sequence[str]) -> list[str]:
    if text.unit == "byte":
        return []
    tokeniser = Tokeniser(text)
    return sorted({token for document in documents for token in tokeniser.tokens(document)})[::2]


def both(text: Text, documents: Sequence[str], vocabulary: Sequence[str]) -> tuple[list[Any], list[Any]]:
    ids, row_lengths = TextGraph(text, vocabulary)(tf.constant([document.encode() for document in documents]))
    encoder = Encoder(text, vocabulary)
    expected = [encoder.encode(document) for document in documents]
    return (
        list(zip(ids.to_list(), row_lengths.to_list(), strict=True)),
        [(encoded.ids.tolist(), encoded.row_lengths.tolist()) for encoded in expected],
    )


@pytest.mark.parametrize("options", CASES, ids=str)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(documents=DOCUMENTS)
def test_any_texts_have_the_same_ids(options: dict[str, Any], documents: list[str]) -> None:
    text = Text.model_validate(options)
    found, expected = both(text, documents, half_vocabulary(text, documents))
    assert found == expected


CODE_POINTS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@pytest.mark.parametrize("lower", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_code_point_is_normalised_the_same(lower: bool) -> None:
    # Between letters, after a capital and before a mark.
    document = "".join(f"a{character}b E{character}\u0301." for character in CODE_POINTS)
    codes = np.frombuffer(document.encode("utf-32-le"), np.int32)
    found, counts = NormaliserGraph(lower=lower)(tf.constant(codes), tf.constant([len(codes)], tf.int64))
    expected = np.frombuffer(Normaliser(lower=lower)(document).encode("utf-32-le"), np.int32)
    assert counts.numpy().tolist() == [len(expected)]
    np.testing.assert_array_equal(found.numpy(), expected)


def test_every_code_point_is_cut_into_the_same_tokens() -> None:
    documents = ["".join(f"a{character}b" for character in CODE_POINTS[at : at + 32]) for at in range(0, 0x10F800, 32)]
    ids, _ = TextGraph(Text(), [])(tf.constant([document.encode() for document in documents]))
    tokeniser = Tokeniser(Text())
    expected = [len(tokeniser.tokens(document)) for document in documents]
    np.testing.assert_array_equal(ids.row_lengths().numpy(), expected)


@pytest.mark.parametrize(
    "documents",
    [
        [""],
        ["", "\u0301", ""],
        ["e" + "\u0301" * 50_000 + "x", "\u0323" * 99, "\u1161" * 80],
        ["Tiếng Việt có dấu. " * 2_000, "plain"],
    ],
)
def test_empty_and_long_and_odd_texts_have_the_same_ids(documents: list[str]) -> None:
    text = Text.model_validate({"length": 100_000, "rows": {"by": "sentences", "length": 64}})
    found, expected = both(text, documents, half_vocabulary(text, documents))
    assert found == expected


def test_bytes_that_are_no_text_are_replaced() -> None:
    ids, _ = TextGraph(Text.model_validate({"unit": "character"}), ["a", "\ufffd"])(tf.constant([b"a\xffa"]))
    assert ids.to_list() == [[2, 3, 2]]


BARE_PROCESS = """
import sys
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
out = served(text=tf.constant(["The caf\\u00e9. \\u0045\\u0301t\\u0065\\u0301!"]))
assert not any(name.split(".")[0] in ("models", "pipelines", "schemas") for name in sys.modules), "not bare"
print(out["ids"].numpy().tolist())
"""


def test_a_session_restores_the_vocabulary_as_a_model_server_does(tmp_path: Path) -> None:
    graph = TextGraph(Text(), ["café", "été"])
    traced = tf.function(graph.padded, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.string, "text"))
    tf.saved_model.save(graph, str(tmp_path / "model"), signatures=traced)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "model"))
        signature = loaded.signature_def["serving_default"]
        given = {signature.inputs["text"].name: ["The café. E\u0301te\u0301!".encode(), b"x"]}
        ids, mask = session.run([signature.outputs["ids"].name, signature.outputs["mask"].name], given)
    assert ids.tolist() == [[1, 2, 1, 3, 1], [1, 0, 0, 0, 0]]
    assert mask.sum(axis=1).tolist() == [5, 1]


def test_an_export_needs_nothing_of_ours_and_only_core_operations(tmp_path: Path) -> None:
    graph = TextGraph(Text(), ["café", "été"])

    def ids(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ids": graph(text)[0].to_tensor()}

    traced = tf.function(ids, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.string, name="text"))
    tf.saved_model.save(graph, str(tmp_path / "model"), signatures=traced)
    ran = subprocess.run(
        [sys.executable, "-c", BARE_PROCESS, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert ran.stdout.strip() == "[[1, 2, 1, 3, 1]]"
    graph_def = traced.graph.as_graph_def()
    operations = {node.op for function in graph_def.library.function for node in function.node_def}
    assert not {name for name in operations if "PyFunc" in name or ">" in name}
