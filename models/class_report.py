"""An evaluation of a classifier, of windows or of texts: as a file for machines, and as one to read in a browser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import layout
from models.page import number, percent, style, write_page
from models.report import epochs_of, learning_curve
from models.run_folder import write_json
from schemas.spec import Spec
from schemas.text_spec import TextSpec

CONFUSED_CLASSES = 30
"""Of more classes there is no table of the confusion, which is in evaluation.json."""
MISTAKES_SHOWN = 20


def write_class_evaluation(
    target: Path, spec: Spec | TextSpec, document: Mapping[str, Any], run: Path | None, noun: str
) -> None:
    """Writes `evaluation.json` and `report.html`, with the run's learning curve where there is a run.

    Args:
      target: the folder.
      spec: the model's.
      document: what `models.classes.Classified` reports, with `split`, and `noun` with how many there were; beside
        `majority` it may have `bigrams`, a second yardstick.
      run: the run's folder.
      noun: what is classified, in the plural.
    """
    write_json(target / layout.EVALUATION_FILE, document)
    with style():
        write_page(target / layout.REPORT_FILE, "class_report.html.jinja", _contents(spec, document, run, noun))


def _contents(spec: Spec | TextSpec, document: Mapping[str, Any], run: Path | None, noun: str) -> dict[str, Any]:
    family = "a model" if spec.model is None else spec.model.family
    epochs = epochs_of(run)
    return {
        "title": f"{spec.stream.name}: {family} on the split {document['split']}",
        "subtitle": f"{document[noun]:,} {noun} of {len(document['classes']):,} classes.",
        "tiles": _tiles(document),
        "curve": learning_curve(epochs, "Cross-entropy by epoch.") if epochs else None,
        "by_class": _by_class(document),
        "mistakes": _mistakes(document),
        "confusion": _confusion(document) if len(document["classes"]) <= CONFUSED_CLASSES else None,
        "facts": _facts(spec, document, noun),
    }


def _yardsticks(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = {f"always '{document['majority']['class']}'": document["majority"]}
    return found | ({"bigrams": document["bigrams"]} if "bigrams" in document else {})


def _tiles(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    scores = [
        ("accuracy", percent(document["accuracy"], 2)),
        ("macro F1", number(document["macro_f1"])),
        ("cross-entropy", number(document["cross_entropy"])),
    ]
    return scores + [
        (f"skill against {name}", percent(beside["skill"])) for name, beside in _yardsticks(document).items()
    ]


def _by_class(document: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [name, f"{of['cases']:,}", percent(of["precision"]), percent(of["recall"]), number(of["f1"])]
        for name, of in document["by_class"].items()
    ]
    return {"heads": ["class", "cases", "precision", "recall", "F1"], "rows": rows}


def _mistakes(document: Mapping[str, Any]) -> dict[str, Any]:
    classes = document["classes"]
    found = [
        (count, classes[actual], classes[said])
        for actual, counts in enumerate(document["confusion"])
        for said, count in enumerate(counts)
        if count and actual != said
    ]
    found.sort(key=lambda mistake: -mistake[0])
    rows = [
        [actual, said, f"{count:,}", percent(count / document["by_class"][actual]["cases"])]
        for count, actual, said in found[:MISTAKES_SHOWN]
    ]
    return {"heads": ["is", "said", "times", "of the class"], "rows": rows}


def _confusion(document: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [name, *(f"{count:,}" for count in counts)]
        for name, counts in zip(document["classes"], document["confusion"], strict=True)
    ]
    return {"heads": ["is / said", *document["classes"]], "rows": rows}


def _facts(spec: Spec | TextSpec, document: Mapping[str, Any], noun: str) -> dict[str, Any]:
    rows = [[noun, f"{document[noun]:,}: all of the split that have a label, each once"]]
    rows += [[f"accuracy of {name}", percent(beside["accuracy"], 2)] for name, beside in _yardsticks(document).items()]
    return {"heads": ["", ""], "rows": [*rows, ["dataset", document["dataset"]], ["spec", spec.fingerprint]]}
