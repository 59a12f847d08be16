"""Classification: one label for a whole sequence."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from windtunnel.train.objectives.config import ClassificationConfig
from windtunnel.train.objectives.objective import Objective


class Classification(Objective[ClassificationConfig]):
    """−Σ ln p(class | sequence), of a model with a classification head; a batch is `Labelled`.

    In training, with label smoothing ε, the label is (1 − ε) of its class and ε spread over all
    (Szegedy et al. 2016, arXiv 1512.00567, section 7). An evaluation does not smooth.
    """

    measures_text: ClassVar[bool] = False

    def predictions(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits (b, C) and classes (b,)."""
        return model(batch.inputs, batch.real), batch.targets

    def summed(self, model: nn.Module, batch: Any) -> Tensor:
        logits, classes = self.predictions(model, batch)
        smoothing = self.config.label_smoothing
        return F.cross_entropy(logits.float(), classes, reduction="sum", label_smoothing=smoothing)

    def train_flops(self, batch: Any, flops_per_token: float) -> float:
        return super().train_flops(batch, self._flops_at(batch.inputs.shape[1]))
