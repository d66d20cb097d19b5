"""A prompt made for each text from what the frozen backbone makes of it (IDPG, Wu et al. 2022)."""

from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.models import Pretrained
from fibecfed.tasks import Batch
from fibecfed.tuning.kind import keep_own, seeded, train_in_fp32
from fibecfed.tuning.prompted import PromptedClassifier, PromptKind, PromptNetwork, embedding_table


class InstancePrompt(PromptedClassifier):
    """Prompt W2 relu(W1 M(x) + b1) + b2, M(x) the frozen backbone's sentence vector: a forward pass of its own."""

    def __init__(self, backbone: nn.Module, pooling: str, network: PromptNetwork, outputs: int) -> None:
        super().__init__(backbone, pooling, network.first.in_features, outputs)
        self.network = network

    def prompt_vectors(self, batch: Batch, embedded: Tensor) -> Tensor:
        return self.network(self.sentence_vectors(batch))


class InstancePromptTuning(PromptKind):
    """Trained: the network that makes the prompt, and the head."""

    name = "instance-prompt"
    sections = ("prompt", "idpg")

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        self.check(config, trains_prompt=False)
        pooling, hidden = self.sizes(pretrained, config)
        width = embedding_table(pretrained).shape[1]
        with seeded(seed):
            network = PromptNetwork(hidden, config.idpg.width, config.prompt.length, width)
            model = InstancePrompt(pretrained.backbone, pooling, network, outputs)
        train_in_fp32(model)
        return keep_own(model).eval()
