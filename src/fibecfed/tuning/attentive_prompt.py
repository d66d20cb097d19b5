"""A mixture of frozen source prompts and a trained one, weighted for each text (ATTEMPT, Asai et al. 2022)."""

import dataclasses
import filecmp
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.config import AttentivePromptConfig, Config, load_config
from fibecfed.errors import InputError
from fibecfed.models import Pretrained
from fibecfed.tasks import Batch
from fibecfed.tuning.adapter_files import ADAPTER_FILE, read_description, read_tensors
from fibecfed.tuning.kind import keep_own, seeded, train_in_fp32
from fibecfed.tuning.prompt import initial_prompt
from fibecfed.tuning.prompted import PromptedClassifier, PromptKind, drawn_from_vocabulary, embedding_table


class Mixture(nn.Module):
    """P_target + sum_j a_j P_j over the t sources and the target itself, a = softmax(h . max(P_j) / T).

    h = LayerNorm(W_up silu(W_down x)), x (B, e) the text's word embeddings max-pooled over its tokens, max(P_j) the
    prompt max-pooled over its P vectors. Source: Asai et al. 2022, section 3.2. Trained: P e + 2 e w + 2 e parameters;
    the sources are frozen. T is the root mean square over the sources of ||max(P_j) - its mean entry||, so that logits
    are about 1 whatever the embeddings' scale (project decision). The paper's T = e exp(1) suits T5's large
    embeddings; with those of BERT all weights would be equal and their network without gradient.
    """

    sources: Tensor  # (t, P, e)

    def __init__(self, sources: Tensor, target: Tensor, width: int) -> None:
        super().__init__()
        size = target.shape[1]
        self.register_buffer("sources", sources)
        self.target = nn.Parameter(target)
        self.down = nn.Linear(size, width, bias=False)
        self.up = nn.Linear(width, size, bias=False)
        self.norm = nn.LayerNorm(size)

    @property
    def temperature(self) -> Tensor:
        """T, a scalar; h has entries of mean 0 and variance 1 at the start."""
        pooled = self.sources.amax(dim=1)
        return (pooled - pooled.mean(dim=1, keepdim=True)).square().sum(dim=1).mean().sqrt().clamp_min(1e-12)

    def weights(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """a, (B, t + 1), of texts with word embeddings (B, T, e) and mask (B, T); the target's own is last."""
        pooled = embedded.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)
        vectors = self.norm(self.up(functional.silu(self.down(pooled))))
        return torch.softmax(vectors @ self._all().amax(dim=1).T / self.temperature, dim=-1)

    def forward(self, embedded: Tensor, mask: Tensor) -> Tensor:
        """(B, P, e)"""
        mixed = torch.einsum("bj,jpe->bpe", self.weights(embedded, mask), self._all())
        return self.target + mixed

    def _all(self) -> Tensor:
        return torch.cat([self.sources, self.target.unsqueeze(0)])


class AttentivePrompt(PromptedClassifier):
    """A prompt of each text's own, mixed out of those that all texts share."""

    def __init__(self, backbone: nn.Module, pooling: str, hidden: int, mixture: Mixture, outputs: int) -> None:
        super().__init__(backbone, pooling, hidden, outputs)
        self.mixture = mixture

    def prompt_vectors(self, batch: Batch, embedded: Tensor) -> Tensor:
        return self.mixture(embedded.float(), batch.attention_mask)


class AttentivePromptTuning(PromptKind):
    """Trained: the target prompt, the attention's network, and the head."""

    name = "attentive-prompt"
    sections = ("prompt", "attempt")

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """Raises InputError for a source that is no prompt of this model and length, or has seen the target's data."""
        self.check(config, trains_prompt=True)
        pooling, hidden = self.sizes(pretrained, config)
        shape = (config.prompt.length, int(embedding_table(pretrained).shape[1]))
        with seeded(seed):
            if config.attempt.sources:
                if config.attempt.drawn != AttentivePromptConfig().drawn:
                    raise InputError("attempt.drawn counts only without attempt.sources; remove one of them.")
                sources = [_source(Path(folder), config, pretrained.sha256, shape) for folder in config.attempt.sources]
            else:
                sources = [drawn_from_vocabulary(pretrained, shape[0]) for _ in range(config.attempt.drawn)]
            mixture = Mixture(torch.stack(sources), initial_prompt(pretrained, config), config.attempt.width)
            model = AttentivePrompt(pretrained.backbone, pooling, hidden, mixture, outputs)
        train_in_fp32(model)
        return keep_own(model).eval()

    def for_loading(self, config: Config) -> Config:
        """The saved sources take the place of as many drawn ones, so that their runs are not needed any more."""
        drawn = len(config.attempt.sources) or config.attempt.drawn
        attempt = AttentivePromptConfig(drawn=drawn, width=config.attempt.width)
        return dataclasses.replace(config, attempt=attempt)


def _source(run: Path, target: Config, base_sha256: str, shape: tuple[int, int]) -> Tensor:
    """The prompt (P, e) of a finished run."""
    if not (run / "config.yaml").is_file() or not (run / "adapter").is_dir():
        raise InputError(f"attempt.sources names '{run}', which is not the directory of a finished run.")
    description: dict[str, Any] = read_description(run / "adapter")
    if description.get("tuning") != "prompt":
        raise InputError(
            f"attempt.sources names '{run}', a run with tuning={description.get('tuning')}; sources are prompts, "
            "of method=prompt-tuning or fedprompt."
        )
    seen = load_config(run / "config.yaml")
    if _same_data(seen, target):
        raise InputError(
            f"attempt.sources names '{run}', whose prompt was trained on '{seen.dataset}', the target's own data set; "
            "take sources that have not seen it."
        )
    if description["base_sha256"] != base_sha256:
        raise InputError(f"attempt.sources names '{run}', a run on another model than this one (sha256 differs).")
    prompt = read_tensors(run / "adapter" / ADAPTER_FILE)["prompt_embeddings"].float()
    if tuple(prompt.shape) != shape:
        raise InputError(
            f"attempt.sources names '{run}', whose prompt has the shape {tuple(prompt.shape)} and not {shape}; all "
            "prompts must have the same prompt.length."
        )
    return prompt


def _same_data(one: Config, other: Config) -> bool:
    """By the name of the data set, or the content of the files."""
    if one.dataset == other.dataset:
        return True
    if one.data.file is None or other.data.file is None:
        return False
    paths = Path(one.data.file), Path(other.data.file)
    if all(path.is_file() for path in paths):
        return filecmp.cmp(*paths, shallow=False)
    return paths[0].resolve() == paths[1].resolve()
