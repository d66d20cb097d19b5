"""`slw` and `shortformer`: short inputs first. The two differ only in how the length grows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fibecfed.config import Config
from fibecfed.federation import (
    MOST,
    Aggregator,
    Content,
    Device,
    InfoSpec,
    Number,
    Reply,
    Request,
    ServerState,
    Site,
    TensorSpec,
)
from fibecfed.methods.base import FederatedAveraging
from fibecfed.methods.stages import Train
from fibecfed.training import LocalResult, TrainJob

FEW = 0.05  # of the tokens: when fewer are cut, the method is as good as fedavg-lora (project decision)


@dataclass
class _Gathered:
    mean: Aggregator
    tokens: int = 0
    cut: int = 0


class _CutTexts(Train):
    """A round on texts cut to the level of the round."""

    @staticmethod
    def level(config: Config, round: int) -> float:
        """The quantile of text lengths that texts are cut to in a 1-based round; it grows linearly."""
        settings = config.lengths
        progress = (round - 1) / (settings.full_at * config.federation.rounds)
        return min(1.0, settings.start + (1 - settings.start) * progress)

    # Server half

    def request(self, state: ServerState, device: int) -> Content:
        """The level too, as long as anything is cut."""
        tensors, info = super().request(state, device)
        level = self.level(self.config, state.round + 1)
        return tensors, {**info, "length_quantile": level} if level < 1 else info

    def expected(self, state: ServerState) -> tuple[Mapping[str, TensorSpec], Mapping[str, InfoSpec]]:
        """Tokens too."""
        tensors, info = super().expected(state)
        tokens = Number(0, MOST, whole=True)
        return tensors, {**info, "tokens": tokens, "tokens_cut": tokens}

    def accumulator(self, state: ServerState) -> _Gathered:
        return _Gathered(super().accumulator(state))

    def fold(self, accumulator: _Gathered, reply: Reply) -> None:
        super().fold(accumulator.mean, reply)
        accumulator.tokens += int(reply.info.get("tokens", 0))
        accumulator.cut += int(reply.info.get("tokens_cut", 0))

    def finish(self, state: ServerState, accumulator: _Gathered) -> ServerState:
        state = super().finish(state, accumulator.mean)
        counted = [*state.info.get("tokens", []), [accumulator.tokens, accumulator.cut]]
        return state.replace(info={**state.info, "tokens": counted})

    # Device half

    def job(self, device: Device, request: Request, indices: Any = None, **changes: Any) -> TrainJob:
        """Local training on cut texts; the batches are those of fedavg-lora."""
        level = request.info.get("length_quantile")
        if level is not None:
            data = device.site.data.train
            quantile = np.quantile(data.lengths[device.indices], level, method="inverted_cdf")
            changes = {"max_tokens": max(int(quantile), data.shortest_cut), **changes}
        return super().job(device, request, indices, **changes)

    def costs(self, device: Device, result: LocalResult | None = None) -> dict[str, Any]:
        info = super().costs(device, result)
        return info if result is None else {**info, "tokens": result.tokens, "tokens_cut": result.tokens_cut}


class _ShortThenWhole(_CutTexts):
    """Two levels: that of the start, then whole texts."""

    @staticmethod
    def level(config: Config, round: int) -> float:
        settings = config.lengths
        return settings.start if round - 1 < settings.full_at * config.federation.rounds else 1.0


class SequenceLengthWarmUp(FederatedAveraging):
    """fedavg-lora on texts cut to a length that grows by the round (Li et al. 2022).

    The paper's length grows linearly from a few tokens to all. Here the quantile of the device's own text lengths
    does, from ``lengths.start`` in the first round to 1, the whole texts, after ``lengths.full_at`` of the rounds
    (project decision: a length in tokens means nothing across data sets). The level is public; the quantile is taken
    on the device and never sent. What is sent beside fedavg-lora's reply is how many tokens were trained and cut.
    The special tokens and the separators of pairs stay, the longer text of a pair is cut first. Judging uses whole
    texts. Where texts are about equally short hardly anything is cut, and a warning says so.
    With ``lengths.start`` = 1 it is fedavg-lora. Parameters and bytes: as fedavg-lora; fewer operations.
    """

    name: ClassVar[str] = "slw"
    place: ClassVar[int] = 200
    paper: ClassVar[str] = "Li et al. 2022"
    trains: ClassVar[str] = "as fedavg-lora, on texts cut to a growing length"
    sends: ClassVar[str] = "as fedavg-lora; how many tokens were cut"
    sections: ClassVar[frozenset[str]] = frozenset({"lengths"})
    round_stage: ClassVar[type[_CutTexts]] = _CutTexts

    def decisions(self, site: Site, state: ServerState) -> Mapping[str, Any]:
        """The quantile, and tokens trained and cut, of each round."""
        counted = state.info.get("tokens", [])
        levels = [self.round_stage.level(self.config, number) for number in range(1, len(counted) + 1)]
        short = [tokens for tokens, level in zip(counted, levels, strict=True) if level < 1]
        trained, cut = sum(t for t, _ in short), sum(c for _, c in short)
        warnings = []
        if trained + cut and cut < FEW * (trained + cut):
            warnings.append(
                f"Only {cut / (trained + cut):.1%} of the tokens were cut in the rounds of short texts: "
                f"the texts are too short, or too alike in length, for {self.name} to differ from fedavg-lora."
            )
        return {
            "length_quantiles": levels,
            "tokens_trained": [t for t, _ in counted],
            "tokens_cut": [c for _, c in counted],
            "warnings": warnings,
        }


class Shortformer(SequenceLengthWarmUp):
    """As slw, in two stages: short texts, then whole ones (Press et al. 2021, staged training).

    The texts of the first ``lengths.full_at`` of the rounds are cut to the quantile ``lengths.start`` of the device's
    text lengths, those of the other rounds are whole. The paper's position-infused attention is left out: it would
    change the pretrained model. The rest is said of slw.
    """

    name: ClassVar[str] = "shortformer"
    place: ClassVar[int] = 210
    paper: ClassVar[str] = "Press et al. 2021"
    trains: ClassVar[str] = "as fedavg-lora, on short texts first"
    round_stage: ClassVar[type[_CutTexts]] = _ShortThenWhole
