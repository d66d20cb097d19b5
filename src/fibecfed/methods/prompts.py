"""The six baselines that train a prompt or a prefix, each FedAvg over its kind of tuning and the head.

What every paper trains is averaged, weighted by n_k; the backbone never moves or travels. All have a pooled linear
head of C (d + 1) parameters, also where the paper has a verbaliser, so that all methods are judged alike (project
decision). P is prompt.length, d the hidden size, e the width of word embeddings (d but for few models), L layers, w
the width of a method's own section. Bytes: 4 x parameters, down and up, for each sampled device and round, plus the
messages' headers; what is frozen never travels.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from fibecfed.methods.base import FederatedAveraging


class PromptTuning(FederatedAveraging):
    """A soft prompt before the text that starts at embeddings of the vocabulary (Lester et al. 2021, section 3.2).

    P e + C (d + 1) parameters. Lester et al. draw from the 5,000 most common tokens; tokenizers do not say which
    those are, so it is all but the special ones (project decision).
    """

    name: ClassVar[str] = "prompt-tuning"
    place: ClassVar[int] = 250
    paper: ClassVar[str] = "Lester et al. 2021"
    trains: ClassVar[str] = "a soft prompt that starts at words of the vocabulary, and the head"
    tuning: ClassVar[str] = "prompt"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"prompt": {"init": "vocabulary"}}


class FedPrompt(FederatedAveraging):
    """A soft prompt that starts at random numbers; prompt and head are all that travels (Zhao et al. 2023, Alg. 1).

    P e + C (d + 1) parameters. With the backbone frozen both papers exchange the same, so that this differs from
    prompt-tuning by the start alone: normal numbers of the word embeddings' spread (project decision).
    """

    name: ClassVar[str] = "fedprompt"
    place: ClassVar[int] = 260
    paper: ClassVar[str] = "Zhao et al. 2023"
    trains: ClassVar[str] = "a soft prompt that starts at random, and the head"
    tuning: ClassVar[str] = "prompt"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"prompt": {"init": "random"}}


class PTuningV2(FederatedAveraging):
    """Trained keys and values before those of the text in every layer (Liu et al. 2022, P-tuning v2, section 3.2).

    2 L P k + C (d + 1) parameters: P is prefix.length, k the width of a layer's keys (d without grouped queries).
    """

    name: ClassVar[str] = "p-tuning-v2"
    place: ClassVar[int] = 270
    paper: ClassVar[str] = "Liu et al. 2022 (P-tuning v2)"
    trains: ClassVar[str] = "a prefix of keys and values in every layer, and the head"
    tuning: ClassVar[str] = "prefix"


class LatePromptTuning(FederatedAveraging):
    """A prompt that enters at a middle layer, made of the hidden states below it (Liu et al. 2022, LPT, section 4).

    w (d + 1) + P d (w + 1) + C (d + 1) parameters. The layers below run without gradients. The prompt is made of the
    hidden states that enter the layer, pooled as for the head, by one network with a hidden layer: nearest to the
    paper's naive generator, whose input and sharing of weights differ (project decision).
    """

    name: ClassVar[str] = "lpt"
    place: ClassVar[int] = 280
    paper: ClassVar[str] = "Liu et al. 2022 (late prompt tuning)"
    trains: ClassVar[str] = "a network that makes a prompt for the upper layers, and the head"
    tuning: ClassVar[str] = "late-prompt"


class InstancePromptTuning(FederatedAveraging):
    """A prompt W2 relu(W1 M(x) + b1) + b2 for each text x, M(x) the frozen model's vector (Wu et al. 2022, section 3).

    w (d + 1) + P e (w + 1) + C (d + 1) parameters. M(x) takes a second forward pass, which is counted. The prompt
    enters at the input (the paper's single-layer variant), and the network is a plain one (its DNN variant).
    """

    name: ClassVar[str] = "idpg"
    place: ClassVar[int] = 290
    paper: ClassVar[str] = "Wu et al. 2022"
    trains: ClassVar[str] = "a network that makes a prompt for each text, and the head"
    tuning: ClassVar[str] = "instance-prompt"


class AttentivePromptTuning(FederatedAveraging):
    """Frozen source prompts and a trained one, mixed by attention for each text (Asai et al. 2022, section 3).

    P e + 2 e w + 2 e + C (d + 1) parameters. Sources are prompts of earlier runs on other data sets
    (attempt.sources); without any, prompts drawn from the vocabulary, which know no task (project decision: no hub
    is needed, but what the paper transfers is then missing). The attention's network starts at random.
    """

    name: ClassVar[str] = "attempt"
    place: ClassVar[int] = 300
    paper: ClassVar[str] = "Asai et al. 2022"
    trains: ClassVar[str] = "a prompt, and its mixture with frozen source prompts, and the head"
    tuning: ClassVar[str] = "attentive-prompt"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"prompt": {"init": "vocabulary"}}
