"""The reader of texts: padded batches with masks, labels and raw text, from a dataset that the ingest wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.text.reader import documents
from pipelines.kernels.text import Encoder
from pipelines.text_ingest import ingest_texts
from schemas.errors import DatasetError
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import parse_text_spec

TEXTS = ["one two. three four five!", "", "two two two two two", "ünë. x? y", "one"]


def dataset(folder: Path, **text: Any) -> TextDatasetFolder:
    spec = parse_text_spec(
        {
            "stream": {"name": "small", "text": "text", "label": "label"},
            "text": {"vocabulary": {"min_count": 1}} | text,
            "dataset": {"shards": 2},
        }
    )
    lines = [json.dumps({"text": text, "label": number % 2}) for number, text in enumerate(TEXTS)]
    (folder / "in.jsonl").write_text("\n".join(lines))
    ingest_texts(spec, inputs=[str(folder / "in.jsonl")], output=str(folder / "dataset"))
    return TextDatasetFolder(folder / "dataset")


@pytest.mark.parametrize("rows", [None, {"by": "sentences", "length": 2}, {"by": "chunks", "length": 3}])
def test_batches_hold_the_ids_of_each_document(rows: dict[str, Any] | None, tmp_path: Path) -> None:
    folder = dataset(tmp_path, rows=rows)
    encoder = Encoder(folder.spec.text, folder.vocabulary)
    seen = []
    for batch in documents(folder, "all", batch_size=2).as_numpy_iterator():
        assert (batch["ids"].dtype, batch["mask"].dtype) == (np.int32, np.bool_)
        assert batch["ids"].shape == batch["mask"].shape
        assert batch["ids"].ndim == (2 if rows is None else 3)
        assert not batch["ids"][~batch["mask"]].any()
        for ids, mask, label, raw in zip(batch["ids"], batch["mask"], batch["label"], batch["text"], strict=True):
            text = raw.decode()
            encoded = encoder.encode(text)
            np.testing.assert_array_equal(ids[mask], encoded.ids)
            if rows is not None:
                np.testing.assert_array_equal(mask.sum(axis=1)[: len(encoded.row_lengths)], encoded.row_lengths)
            assert folder.manifest.classes[label] == str(TEXTS.index(text) % 2)
            seen.append(text)
    assert Counter(seen) == Counter(TEXTS)


def test_shuffling_changes_the_order_by_seed_and_loses_nothing(tmp_path: Path) -> None:
    folder = dataset(tmp_path)

    def order(seed: int) -> list[bytes]:
        batches = documents(folder, "all", batch_size=2, shuffle_seed=seed).as_numpy_iterator()
        return [text for batch in batches for text in batch["text"]]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(6)}) > 1
    assert sorted(order(1)) == sorted(text.encode() for text in TEXTS)


def test_a_missing_split_or_file_is_an_error(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    with pytest.raises(DatasetError, match="expected a split of"):
        documents(folder, "train", batch_size=2)
    folder.shard_paths("all")[0].unlink()
    with pytest.raises(DatasetError, match="expected a file of the split"):
        documents(folder, "all", batch_size=2)
