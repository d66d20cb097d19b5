# %% [markdown]
# # From messages to an adapter
#
#     python examples/walkthrough.py
#
# Six invented companies hold customer-support messages, which must stay where they are. This script looks at the
# data, sees who holds what, trains one model over all companies and one at each company alone, compares the two, and
# uses the result. It takes about a minute on one core, needs no network, and writes to runs/walkthrough. Editors that
# know `# %%` run it cell by cell.

# %%
from pathlib import Path

import numpy as np

import fibecfed
from fibecfed.data import load_splits, partition_rows

OUT = Path("runs/walkthrough")

# %% [markdown]
# ## Settings
#
# A configuration is every setting of a run; what is not named here has a default (`fibecfed config` prints them). Each
# company has labelled 40 messages. All six take part in each of four rounds: they train on their own messages, then
# the server averages what they learned. Half of the test messages are left out, only to save time.

# %%
SETTINGS = {
    "data": {"name": "support", "train_examples": 240, "test_examples": 120, "partition": {"kind": "column"}},
    "federation": {"devices": 6, "sampled": 6, "rounds": 4},
    "lora": {"alpha": 4},
    "training": {"learning_rate": 0.006, "batch_size": 4},
    "evaluation": {"every": 4},
}
config = fibecfed.load_config(**SETTINGS)

# %% [markdown]
# ## Data
#
# The training messages, and one of each kind. A part of them is kept aside for tuning decisions (validation), and the
# test messages are touched only to report a result.

# %%
splits = load_splits(config)
train = splits.train
print(f"{len(train)} training, {len(splits.validation)} validation, {len(splits.test)} test messages")
for label, name in enumerate(train.label_names):
    example = train.texts[int(np.flatnonzero(train.labels == label)[0])]
    print(f"  {name:18} {example[:90]}")

# %% [markdown]
# ## Partition
#
# Who holds what. Here the data says it: each message names its company. That is non-IID as it comes: the energy
# supplier hears about bills, the furniture maker about deliveries. For data that names no owner,
# `data.partition.kind=dirichlet` makes up devices whose label mixes differ.

# %%
owned, _ = partition_rows(config, train, splits.test)
counts = owned.label_counts(train.labels, len(train.label_names))
assert owned.names is not None
print("\nmessages of each kind, by company")
for company, row in zip(owned.names, counts, strict=True):
    most = train.label_names[int(row.argmax())]
    print(f"  {company:18} {' '.join(f'{n:4d}' for n in row)}   most: {most}")

# %% [markdown]
# ## Two methods
#
# `fedavg-lora` averages the companies' LoRA adapters after each round. `local-only` is the control: the same training,
# but nothing is exchanged. Only the method differs; data, split and seed are the same.

# %%
results = {}
for method in ("fedavg-lora", "local-only"):
    print(f"\ntraining {method} ...", flush=True)
    results[method] = fibecfed.run(fibecfed.load_config(method=method, **SETTINGS), OUT / method, force=True)

# %% [markdown]
# ## Compare
#
# *global* is the server's one model on all test messages; for `local-only`, which has no such model, it is the mean
# over the companies' models. *personalized* is each company's own model on its own messages. With 120 messages and
# one seed, a few points are chance.

# %%
print(f"\n{'method':14} {'global':>8} {'personalized':>13} {'worst company':>14} {'MB sent':>8}")
for method, result in results.items():
    found = result.summary
    sent = (found["bytes"]["up"] + found["bytes"]["down"]) / 1e6
    print(
        f"{method:14} {found['accuracy']['global']:8.3f} {found['accuracy']['personalized']:13.3f} "
        f"{found['worst_tenth']:14.3f} {sent:8.1f}"
    )

# %% [markdown]
# ## Use it
#
# The run's directory holds a PEFT adapter; its README.md has the lines that load it without fibecfed. With fibecfed it
# is one line. `fibecfed.load(directory, device=3)` would take a company's own model, where a method makes them.

# %%
messages = [
    "my bill went up by a third and nobody told me why",
    "the van never came and I waited in all day",
    "please close my contract at the end of the month",
]
print()
for message, prediction in zip(messages, fibecfed.load(OUT / "fedavg-lora").predict(messages), strict=True):
    print(f"  {prediction.label:16} {prediction.probabilities[prediction.label]:.2f}  {message}")

company = owned.names[3]
alone = fibecfed.load(OUT / "local-only", device=3)
print(f"\nthe model of {company} alone says: {', '.join(p.label for p in alone.predict(messages))}")
print(f"\nMore: {OUT}/fedavg-lora/README.md, and `fibecfed methods` for other methods to put in the loop above.")
