"""A device's own text on its own machine, in the form that devices have in one process."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fibecfed.config import Config
from fibecfed.data import Columns, FederatedData, Partition, Rows, data_print, hold_out, label_list, read_rows, tokenize
from fibecfed.data.apart import check_files_apart, check_rows_apart
from fibecfed.data.instructions import read_site, read_test_file
from fibecfed.errors import InputError
from fibecfed.runtime import Learner
from fibecfed.seeding import stream
from fibecfed.tasks import task_kind


class UnknownLabels(InputError):
    """``count`` labels of a site's text are not among those of the run."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


def own_data(learner: Learner, device: int) -> FederatedData:
    """The text of one device of K; the others hold nothing here.

    What no test file says is held out by a seeded draw of the device's own. In one process the draw is over all
    devices, so that numbers equal those of one process only with test files and data.validation_fraction=0.
    Raises InputError, as UnknownLabels where that is why.
    """
    config = learner.config
    data, seed = config.data, config.seed
    assert data.file is not None
    if data.test_file is not None:
        check_files_apart(data.file, data.test_file)
    train, test = _read(config)
    if data.test_file is not None and test is not None:
        check_rows_apart(train, test, data.file, data.test_file)
    else:
        test, train = hold_out(train, round(data.test_fraction * len(train)), stream(seed, "test split", device))
    validation, train = hold_out(
        train, round(data.validation_fraction * len(train)), stream(seed, "validation split", device)
    )
    if len(train) < data.partition.minimum:
        raise InputError(f"'{data.file}' leaves {len(train)} training examples; {data.partition.minimum} are needed.")
    held_out = validation if config.evaluation.split == "validation" else test
    return _data(learner, train, held_out, validation, device, data.file)


def _read(config: Config) -> tuple[Rows, Rows | None]:
    if task_kind(config).generates:
        return read_site(config)
    data, labels = config.data, labels_of(config)
    columns = Columns(data.text, data.text_pair, data.label, None, data.separator)
    assert data.file is not None
    train = _rows(data.file, columns, labels)
    return train, None if data.test_file is None else _rows(data.test_file, columns, labels)


def _rows(location: str, columns: Columns, labels: Sequence[str]) -> Rows:
    try:
        return read_rows(location, columns, labels)
    except InputError as error:
        try:
            found = read_rows(location, columns, fewest_labels=1).label_names
        except InputError:
            raise error from None
        unknown = len(set(found) - set(labels))
        if unknown:
            raise UnknownLabels(str(error), unknown) from None
        raise


def server_data(learner: Learner) -> FederatedData:
    """What the server has: no training text, and no test data but its own (data.test_file), if any."""
    config, labels = learner.config, labels_of(learner.config)
    data = config.data
    nothing = Rows([], None, np.empty(0, np.int64), labels)
    held_out = nothing
    if task_kind(config).generates:
        held_out = read_test_file(config) or nothing
    elif data.test_file is not None:
        held_out = read_rows(
            data.test_file, Columns(data.text, data.text_pair, data.label, None, data.separator), labels
        )
    return _data(learner, nothing, held_out, nothing, None, "the devices' own text")


def labels_of(config: Config) -> tuple[str, ...]:
    """The labels of a run over machines, none of a language model. Raises InputError if none are named."""
    if task_kind(config).generates:
        return ()
    if config.data.labels is None:
        raise InputError("Over machines no one sees all labels: name them, as data.labels=[billing,delivery,praise].")
    return label_list(config.data.labels)


def _data(
    learner: Learner, train: Rows, held_out: Rows, validation: Rows, device: int | None, origin: str
) -> FederatedData:
    config, pretrained = learner.config, learner.pretrained
    said = task_kind(config).note(pretrained.tokenizer)
    devices = _belonging_to(device, len(train), config.federation.device_count)
    as_tokens = partial(
        tokenize,
        tokenizer=pretrained.tokenizer,
        max_length=config.data.max_length,
        vocabulary=pretrained.vocabulary,
        task=task_kind(config),
        encoder=task_kind(config).encoder(config),
    )
    return FederatedData(
        task=task_kind(config).of(train.label_names or held_out.label_names),
        train=as_tokens(train),
        devices=devices,
        held_out=as_tokens(held_out),
        held_out_owners=_belonging_to(device, len(held_out), config.federation.device_count),
        validation_rows=validation,
        origin=origin,
        evaluated_on=config.evaluation.split,
        tokenize=as_tokens,
        notes=() if said is None else (said,),
        fingerprint=data_print({}, train, validation, held_out, devices),
    )


def _belonging_to(device: int | None, examples: int, devices: int) -> Partition:
    """All examples belong to one device of K; None: the server's, in a column after the devices'."""
    last = devices + 1 if device is None else devices
    first = devices if device is None else device
    return Partition(np.arange(examples), np.where(np.arange(last + 1) <= first, 0, examples))
