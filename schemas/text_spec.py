"""The spec of a stream of texts: documents with labels, and how they become token ids.

A spec is one of texts if it has a section `text`; it then has no `grid` and no `window`. As with series, `stream`,
`text`, `split`, `model` and `training` are semantic and hashed, and the other sections are settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.documents import canonical, fingerprint_of, parse_as, read_document
from schemas.section import Count, Name, Section
from schemas.settings_spec import Dataset, Kafka, Paths, Serving, Topics
from schemas.spec import Spec, load_spec, parse_spec
from schemas.split_spec import FieldSplit, KeySplit
from schemas.text_model_spec import TextAttentionModel, TextEnsembleModel, TextHierarchicalModel, TextModel
from schemas.training_spec import Training

PAD_ID = 0
UNKNOWN_ID = 1
FIRST_ID = 2
"""The id of the vocabulary's first token, and of byte 0."""

MAX_ATTENTION = 4096
"""Tokens that a model may compare each with each."""


_SEMANTIC = ("stream", "text", "split", "model", "training")


class TextStream(Section):
    """What a document is: fields of an event (CSV columns, JSON members)."""

    name: Name
    text: str
    """The field that holds the document."""
    label: str
    """The field that holds its class."""
    key: str | None = None
    """The field that names what the document is about: documents of one key are in one split. Left out: its text."""
    columns: tuple[str, ...] = ()
    """The columns of CSV files that have no header."""
    description: str = ""


class Vocabulary(Section):
    """Which tokens of the train split have ids of their own: the most frequent.

    Of equally frequent ones the first in the order of code points comes first.
    """

    size: Annotated[int, Field(ge=1, le=10_000_000)] = 20_000
    """At most so many."""
    min_count: Count = 2
    """A token that occurs less often is unknown."""


class ChunkRows(Section):
    """Rows of a fixed number of tokens; the last one may be shorter."""

    by: Literal["chunks"]
    length: Count


class SentenceRows(Section):
    """A sentence a row. A sentence of more than `length` tokens goes on in the next row."""

    by: Literal["sentences"]
    length: Count = 64


class Text(Section):
    """How a text becomes ids: lower case, canonical composition (NFC), tokens, the first `length` of them, ids."""

    unit: Literal["word", "character", "byte"] = "word"
    """A token: a run of letters, digits and marks or a single other character; a code point; a byte of UTF-8."""
    lower: bool = True
    """Simple lower case, code point by code point."""
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """The tokens of a document after so many are cut off."""
    vocabulary: Vocabulary = Vocabulary()
    """Not for bytes, which are all known."""
    rows: Annotated[ChunkRows | SentenceRows, Field(discriminator="by")] | None = None
    """The two-level layout of a hierarchical encoder; left out: one row."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.unit == "byte" and self.vocabulary != Vocabulary():
            raise ValueError("bytes have no vocabulary")
        if self.unit != "word" and isinstance(self.rows, SentenceRows):
            raise ValueError("sentences are rows of words; for characters and bytes use chunks")
        return self


class TextSpec(Section):
    """The whole spec of a stream of texts. `load_text_spec` reads one."""

    stream: TextStream
    text: Text = Text()
    split: Annotated[KeySplit | FieldSplit, Field(discriminator="by")] | None = None
    model: TextModel | None = None
    training: Training = Training()
    dataset: Dataset = Dataset()
    kafka: Kafka = Kafka()
    serving: Serving = Serving()
    paths: Paths = Paths()

    @model_validator(mode="after")
    def _model_reads_the_rows(self) -> Self:
        in_rows = self.text.rows is not None
        for model in self.model.sections if isinstance(self.model, TextEnsembleModel) else (self.model,):
            if isinstance(model, TextHierarchicalModel) and not in_rows:
                raise ValueError("the family 'hierarchical' reads rows; give text.rows")
            if in_rows and model is not None and model.family not in ("hierarchical", "bigrams"):
                raise ValueError(f"the family '{model.family}' reads no rows; leave text.rows out")
            if isinstance(model, TextAttentionModel) and self.text.length > MAX_ATTENTION:
                raise ValueError(
                    f"the family 'attention' compares every token with every other: expected a text.length of at most "
                    f"{MAX_ATTENTION}, got {self.text.length}; for longer documents there is 'hierarchical'"
                )
        return self

    @model_validator(mode="after")
    def _training_is_of_classes(self) -> Self:
        if self.training.loss != "mse":
            raise ValueError("training.loss is for series; the loss of texts is the cross-entropy of the classes")
        if self.training.windows_per_epoch is not None:
            raise ValueError("training.windows_per_epoch is for series; an epoch of texts is the whole train split")
        return self

    @cached_property
    def model_name(self) -> str:
        """The served model's name."""
        return self.serving.model or self.stream.name

    @model_validator(mode="after")
    def _documents_stand_alone(self) -> Self:
        if self.kafka.recovery != "replay" or self.kafka.changelog or self.kafka.idle_close or self.kafka.late:
            raise ValueError("kafka.recovery, changelog, idle_close and late are for series; documents have no windows")
        return self

    @cached_property
    def group(self) -> str:
        """The consumer group of `tidegauge stream`."""
        return self.kafka.group or f"tidegauge-{self.stream.name}"

    @cached_property
    def topics(self) -> Topics:
        """The stream's topics; no document is late."""
        return Topics.of(self.stream.name, self.kafka)

    @cached_property
    def window_fingerprint(self) -> str:
        """Hash of all that the ids of a text depend on, but for the vocabulary, which the data decides."""
        return fingerprint_of(self._text_form())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the semantic sections."""
        sections = {"split": self.split, "model": self.model, "training": self.training}
        forms = {name: canonical(part) for name, part in sections.items() if part is not None}
        return fingerprint_of(self._text_form() | {name: form for name, form in forms.items() if form})

    def semantic_document(self) -> dict[str, Any]:
        """The semantic sections as a spec document, to embed in datasets and models."""
        # `text` is there even where all of it is at its default: it is what makes the spec one of texts.
        document = {"text": {}} | self.model_dump(mode="json", exclude_defaults=True)
        return {name: document[name] for name in _SEMANTIC if name in document}

    def _text_form(self) -> dict[str, Any]:
        return {"text": canonical(self.text)}


def token_count(text: Text, vocabulary: int) -> int:
    """How many ids there may be, those of padding and of unknown tokens among them.

    Args:
      text: the spec's section.
      vocabulary: how many tokens have ids of their own; of no meaning for bytes.
    """
    return FIRST_ID + (256 if text.unit == "byte" else vocabulary)


def load_text_spec(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> TextSpec:
    """Reads a spec file of texts; see `schemas.spec.load_spec`.

    Raises:
      SpecError: the file cannot be read or is wrong; one line for each problem, all at once.
    """
    return parse_text_spec(read_document(path, environment), where=str(path))


def parse_text_spec(document: Mapping[str, Any], *, where: str = "spec") -> TextSpec:
    """Validates a spec document of texts.

    Raises:
      SpecError: one line for each problem.
    """
    return parse_as(TextSpec, document, where=where)


def load_any_spec(path: str | os.PathLike[str]) -> Spec | TextSpec:
    """Reads a spec file of either kind.

    Raises:
      SpecError: the file cannot be read or is wrong.
    """
    return load_text_spec(path) if "text" in read_document(path) else load_spec(path)


def parse_any_spec(document: Mapping[str, Any], *, where: str = "spec") -> Spec | TextSpec:
    """Validates a spec document of either kind.

    Raises:
      SpecError: one line for each problem.
    """
    return parse_text_spec(document, where=where) if "text" in document else parse_spec(document, where=where)
