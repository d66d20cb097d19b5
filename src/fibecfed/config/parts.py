"""The settings of the method's parts: curriculum, sharing, warm-up. Each can be switched off or replaced.

Marks as in docs/method.md: [P] stated by the paper, [D] decided by this project. A default of None: the method decides.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT_KEYS = ConfigDict(extra="forbid")
_OpenFraction = Annotated[float, Field(gt=0, le=1)]


@dataclass(config=_STRICT_KEYS, frozen=True)
class CurriculumConfig:
    """Which of its examples a device trains on in a round."""

    score: Annotated[
        Literal["none", "fisher", "fisher-model", "loss", "length", "rarity", "random"] | None,
        Field(
            description="Difficulty of an example. fisher: trace of its Fisher information with the true label [P]; "
            "fisher-model: its mean over the model's own labels; loss; length; rarity of its tokens; random; "
            "none: no curriculum. None: the method decides."
        ),
    ] = None
    initialization: Annotated[
        Literal["pass", "training"] | None,
        Field(
            description="Where difficulties and Fisher rows come from. pass: a pass over a device's examples when it "
            "is first asked; training: its first training, on all its examples, at no further cost [D]. "
            "None: the method decides."
        ),
    ] = None
    stratified: Annotated[
        bool | None,
        Field(
            description="Rank inside each label, so that the easy part keeps the device's label mix [D]. "
            "None: the method decides."
        ),
    ] = None
    pacing: Annotated[
        Literal["linear", "sqrt", "exp", "competence"] | None,
        Field(
            description="How the used part of the data grows with the round [D]. competence: as many examples as "
            "linear, drawn from a part that grows from curriculum.competence by the square root (Platanios et al. "
            "2019). None: the method decides."
        ),
    ] = None
    competence: Annotated[
        _OpenFraction, Field(description="pacing=competence only: c0, the part drawn from in the first round.")
    ] = 0.01
    start: Annotated[
        _OpenFraction | None, Field(description="Part of the data in the first round [D]. None: the method decides.")
    ] = None
    full_at: Annotated[_OpenFraction, Field(description="Part of the rounds after which all data is used [D].")] = 0.8
    unit: Annotated[
        Literal["example", "batch"], Field(description="What is ordered: single examples or fixed batches [D].")
    ] = "example"
    cap: Annotated[
        _OpenFraction | Literal["auto"] | None,
        Field(
            description="Most of the data ever used; below 1 the hardest is dropped for good. auto: each device drops "
            "the part that its difficulties say is mislabelled, and nothing where they show none [D]. None: the method "
            "decides."
        ),
    ] = None
    steps: Annotated[
        Literal["pace", "match"] | None,
        Field(
            description="Optimizer steps of a round. pace: one pass over the part in use; match: as many as over all "
            "data, the part in use being shuffled and passed again [D]. None: the method decides."
        ),
    ] = None
    fresh: Annotated[
        bool | None,
        Field(
            description="score=random only: a fresh draw each round instead of one nested order [D]. "
            "None: the method decides."
        ),
    ] = None
    per_token: Annotated[
        bool,
        Field(description="Divide Fisher scores and losses by an example's learned tokens, with which they grow [D]."),
    ] = False
    refresh: Annotated[
        bool, Field(description="Keep Fisher scores up to date from the training steps' own gradients [D].")
    ] = False
    importance: Annotated[
        bool,
        Field(description="Once all data is used: draw with chance ~ sqrt(difficulty), with importance weights [D]."),
    ] = False


@dataclass(config=_STRICT_KEYS, frozen=True)
class SharingConfig:
    """Which parameters travel, and what devices do with those that do not."""

    layers: Annotated[
        Literal["sensitivity", "gain", "consensus", "reset_loss", "first", "last", "random", "all"] | None,
        Field(
            description="How the global aggregation layers are chosen. sensitivity: the most noise-sensitive [P]; "
            "gain: relative change out over in; consensus: devices agree on the update; reset_loss: loss without the "
            "layer's LoRA; all: every layer travels. None: the method decides."
        ),
    ] = None
    count: Annotated[
        int | float | Literal["functional", "lossless", "plateau", "sites"] | None,
        Field(
            description="How many layers: a number, a fraction (with a decimal point), functional (the fewest that "
            "keep the held-out loss within 1 %), lossless or plateau (from the Hessian's spectrum), sites (all where "
            "devices hold the same mix of labels, down to sharing.least where each holds one; label counts are sent). "
            "None: the method decides."
        ),
    ] = None
    least: Annotated[
        _OpenFraction, Field(description="count=sites only: part of the layers shared where sites differ most [D].")
    ] = 0.5
    noise: Annotated[
        Literal["gaussian", "worst_case"],
        Field(description="Noise on the embeddings: random, or along the loss gradient [D]."),
    ] = "worst_case"
    sigma: Annotated[float, Field(gt=0, description="Norm of the noise over the norm of the embeddings [D].")] = 0.05
    devices: Annotated[
        int | None,
        Field(ge=1, description="Devices that give layer scores. None: as many as a round samples [D]."),
    ] = None
    head: Annotated[
        Literal["shared", "local"] | None, Field(description="Whether the head travels [D]. None: the method decides.")
    ] = None
    rows: Annotated[
        Literal["fisher", "random", "dense", "none"] | None,
        Field(
            description="What trains in the layers that stay on a device: the rows of highest momentum Fisher [P], as "
            "many at random, all, or none. None: the method decides."
        ),
    ] = None
    density: Annotated[_OpenFraction, Field(description="Part of each matrix's rows that trains [D].")] = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1, description="gamma of the momentum Fisher [D].")] = 0.9
    freeze_a: Annotated[
        bool, Field(description="Freeze and do not send LoRA A of shared layers: averages become exact [D].")
    ] = False
    average_local: Annotated[
        bool, Field(description="At the end, average the devices' local layers into the global model once [D].")
    ] = False
    anchored: Annotated[
        bool,
        Field(
            description="In half of the training batches, drawn by the seed, the local layers have their shared value "
            "and are left as they are, so that the shared layers also work without them [D]."
        ),
    ] = False
    local_rate: Annotated[
        Literal["round", "participation"],
        Field(
            description="What the learning rate of local layers falls with by training.schedule: the round, as that of "
            "the shared ones, or how often the device has taken part, of the times that it can expect [D]."
        ),
    ] = "round"
    lanczos_steps: Annotated[int, Field(ge=2, description="Lanczos steps of count=lossless and plateau [D].")] = 30
    lanczos_examples: Annotated[
        int, Field(ge=1, description="Examples of a device that its spectrum is taken from [D].")
    ] = 32
    radius: Annotated[
        float | None,
        Field(
            gt=0,
            description="Radius on which the Lipschitz constant of count=lossless is estimated. None: the median "
            "distance that LoRA moved on a device in the last round of warm-up [D].",
        ),
    ] = None


@dataclass(config=_STRICT_KEYS, frozen=True)
class PersonalConfig:
    """What each device has of its own beside the shared model, and whether it stands [D]."""

    head: Annotated[
        Literal["none", "fitted", "trained"] | None,
        Field(
            description="fitted: each device fits its own head on its own features, by a convex fit without a round; "
            "it finds the strength of the pull towards the shared head on held-out folds, and may take no fit. "
            "trained: in each round a device trains a second head beside the shared one, and keeps it. "
            "none: no such head. None: the method decides."
        ),
    ] = None
    fallback: Annotated[
        Literal["none", "held-out"] | None,
        Field(
            description="held-out: a device with at least 20 training examples keeps a fifth of them out, and takes "
            "the shared model where its own is not better on that fifth; nothing else reads these examples. none: a "
            "device's own model stands. None: the method decides."
        ),
    ] = None


@dataclass(config=_STRICT_KEYS, frozen=True)
class WarmUpConfig:
    """Ordinary federated rounds before difficulty is judged; counted in every cost [D]."""

    rounds: Annotated[
        int | None,
        Field(
            ge=0,
            description="Rounds of warm-up. None: until the shared model's balanced accuracy in training has come "
            "warm_up.accuracy of the way from chance to 1, within warm_up.most of the rounds; 0 if the head is solved "
            "in closed form.",
        ),
    ] = None
    accuracy: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Balanced training accuracy that ends it, as a part of the way from chance 1/C to 1: 0.5 is "
            "0.75 for two labels and 0.58 for six.",
        ),
    ] = 0.5
    fall: Annotated[
        float,
        Field(gt=0, lt=1, description="causal-lm: part of its first loss by which the training loss falls to end it."),
    ] = 0.1
    most: Annotated[_OpenFraction, Field(description="Part of all rounds it may take, at least one round.")] = 0.2
