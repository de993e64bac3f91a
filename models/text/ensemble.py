"""Runs of texts that an ensemble is made of (`models.ensemble`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.members import Float64, Members
from models.mixture import member_name
from models.stacking import mixture_weights
from models.text import stored
from models.text.classifier import bigrams_of
from models.text.train import likelihoods
from schemas.documents import parse_as
from schemas.text_dataset import TextDatasetFolder
from schemas.text_model_spec import TextEnsembleModel
from schemas.text_spec import TextSpec


class TextMembers(Members[TextSpec, TextDatasetFolder]):
    """Runs of texts. Those that have bigrams must have the same ones, which are looked up once."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self.runs, self._stored = runs, [stored.load(run) for run in runs]
        self.specs = [one.spec for one in self._stored]
        self._bigrams = [one.state.bigrams for one in self._stored if bigrams_of(one.spec) is not None]

    def _unlike_the_first(self, number: int) -> str | None:
        one = self._stored[number]
        if bigrams_of(one.spec) is None or np.array_equal(one.state.bigrams, self._bigrams[0]):
            return None
        return "expected the bigrams of the other runs ($.model.bigrams), got others"

    def fitted_weights(self, folder: TextDatasetFolder) -> Float64:
        """By the cross-entropy."""
        return mixture_weights(np.stack([likelihoods(folder, "validation", one) for one in self._stored]))

    def spec_of(self, weights: Float64) -> TextSpec:
        """The first one's, with the members as its model."""
        model = {"family": "ensemble", "members": self.sections(), "weights": weights.tolist()}
        return self.specs[0].model_copy(update={"model": parse_as(TextEnsembleModel, model, where="ensemble")})

    def keep(self, run: Path, spec: TextSpec, folder: TextDatasetFolder) -> None:  # noqa: ARG002
        """With the members' weights."""
        state = self._stored[0].state
        if self._bigrams:
            state = replace(state, bigrams=self._bigrams[0])
        model = state.build(spec)
        for number, one in enumerate(self._stored):
            model.get_layer(member_name(number)).set_weights(one.model.get_weights())
        stored.save(run, state, model)
