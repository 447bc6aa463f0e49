"""What a fine-tuned encoder still knows of its pretraining, and rehearsal against forgetting it.

The masked-LM loss of the encoder, on text that is not the task's, says what training made it forget (McCloskey and
Cohen, 1989: catastrophic interference). Rehearsal (Robins, 1995) goes on with some masked text while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import keras
import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.backbones.loading import Backbone
from kpeft.backbones.masked_lm_head import load_masked_lm_head
from kpeft.config import RunConfig
from kpeft.frontier import split
from kpeft.masked_text import TextBlocks
from kpeft.sites import Layout

_MOST_MEASURED = 64  # blocks
_BATCH = 16


@final
class MaskedLanguageModel(keras.Model):
    """An encoder, adapters included, with a masked-LM head.

    Args:
        encoder: Takes a dictionary of inputs and gives a sequence, or a dictionary with a sequence_output.
        head: As from `load_masked_lm_head`.
    """

    def __init__(self, encoder: keras.Model, head: Any) -> None:
        super().__init__(name="masked_language_model")
        self.encoder = encoder
        self.head = head

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """The cross-entropy of each token to guess, float32 (n, p), of inputs as from `TextBlocks.masked`."""
        outputs = self.encoder({name: inputs[name] for name in self.encoder.input}, training=training)
        sequence = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
        logits = self.head(sequence, mask_positions=inputs["positions"])
        return keras.losses.sparse_categorical_crossentropy(inputs["labels"], logits, from_logits=True)


@final
class MaskedLM:
    """Masked text beside a run: a tenth of its blocks, 64 at most, are measured, and the rest may be rehearsed.

    Args:
        backbone: The run's preset.
        adaptation: The method on its classifier.
        config: The run, with its `masked_text`.

    Attributes:
        model: The encoder with its masked-LM head.
        share: Rows of text beside a row of the task.
        identity: Tells the text from others.

    Raises:
        ValueError: If the text or the preset does not fit, or nothing that is trained is in the encoder to rehearse.
    """

    def __init__(self, backbone: Backbone, adaptation: Adaptation, config: RunConfig) -> None:
        asked = config.masked_text
        assert asked is not None
        layout = Layout.of(adaptation.model)
        encoder = layout.layers[layout.backbone]
        if asked.rehearsal and not encoder.trainable_variables:
            raise ValueError("--rehearsal is for methods that train in the encoder, and this one trains nothing there.")
        length = min(config.data.max_length, backbone.max_length - adaptation.method.positions)
        text = TextBlocks.read(Path(asked.text), backbone.tokenizer, length)
        count = min(_MOST_MEASURED, max(1, len(text) // 10))
        self.identity = text.digest
        self.model = MaskedLanguageModel(encoder, load_masked_lm_head(config.preset, encoder))
        self.share = asked.rehearsal
        self._classifier = adaptation.model
        self._rows = max(1, round(self.share * config.training.batch_size))
        self._text = text.part(slice(0, len(text) - count))
        # The same tokens for every seed, so that losses before and after, and those of runs, can be compared.
        self._measured = text.part(slice(len(text) - count, None)).masked(np.arange(count), np.random.default_rng(0))
        self._seed = config.training.seed

    def loss(self) -> float:
        """Returns the mean cross-entropy of the tokens to guess in the blocks that are measured, in nats."""
        return float(self.model.predict(dict(self._measured), batch_size=_BATCH, verbose=0).mean())

    def rehearsing_model(self) -> RehearsingModel:
        """Returns the model to train in place of the classifier.

        On the task's rows, layers below everything that trains run without dropout, as in `trained_part`.
        """
        parts = split(self._classifier)
        return RehearsingModel(parts.joined if parts else self._classifier, self.model)

    def batch(self, micro_batch: int, share_of_step: float) -> dict[str, np.ndarray]:
        """Returns what is rehearsed beside a micro-batch, as inputs of a `RehearsingModel`.

        Args:
            micro_batch: Its number; with the run's seed, it decides blocks and masks.
            share_of_step: Share of its step's rows that are in the micro-batch.
        """
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, micro_batch, 1])))
        masked = self._text.masked(rng.integers(0, len(self._text), self._rows), rng)
        weights = np.full(self._rows, self.share * share_of_step / self._rows, np.float32)
        return {f"text_{name}": value for name, value in {**masked, "weights": weights}.items()}


@final
class RehearsingModel(keras.Model):
    """A classifier that rehearses masked text while it trains: loss = the task's + share · masked-LM loss.

    Args:
        classifier: Takes a dictionary of inputs and gives logits.
        masked_lm: Shares its encoder.
    """

    def __init__(self, classifier: keras.Model, masked_lm: MaskedLanguageModel) -> None:
        super().__init__(name="rehearsing_model")
        self.classifier = classifier
        self.masked_lm = masked_lm

    def call(self, inputs: Mapping[str, Any], training: bool | None = None) -> Any:
        """The classifier's logits; where there is text among the inputs, its weighted loss is added to the model's."""
        logits = self.classifier({name: inputs[name] for name in self.classifier.input}, training=training)
        text = {name.removeprefix("text_"): value for name, value in inputs.items() if name.startswith("text_")}
        if text:
            losses = ops.mean(self.masked_lm(text, training=training), axis=-1)
            self.add_loss(ops.sum(text["weights"] * losses))
        return logits
