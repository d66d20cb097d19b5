"""What `run --dry-run` shows."""

from rich.table import Table

from fibecfed.methods.stages import CountLayers
from fibecfed.runs.estimate import Estimate, ExpectedTraffic, Stretch


def estimate_table(found: Estimate) -> Table:
    """Parameters, time and memory."""
    table = Table(title="Dry run: nothing was trained or written", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("parameters trained on a device", f"{found.round.parameters_trained:,}")
    table.add_row("parameters sent to a device", f"{found.round.parameters_sent:,}")
    if found.counted is None:
        table.add_row("estimated time", f"{found.seconds:.0f} s")
        table.add_row("estimated memory", f"{found.memory_bytes / 1e6:.0f} MB")
        return table
    memory = found.counted
    table.add_row("computed memory of a device", f"{memory.total / 1e6:,.0f} MB")
    table.add_row("  the model's weights", f"{memory.weights / 1e6:,.0f} MB")
    table.add_row("  what trains, its gradients and optimizer", f"{memory.trained / 1e6:,.0f} MB")
    batch = f"{memory.examples} examples of {memory.tokens} tokens"
    table.add_row(f"  activations of {batch}", f"{memory.activations / 1e6:,.0f} MB")
    return table


def traffic_table(found: Estimate) -> Table:
    """Bytes: a round in mid-run, each stage of the run, and the whole run."""
    table = Table(title="Bytes")
    table.add_column()
    table.add_column("down", justify="right")
    table.add_column("up", justify="right")
    traffic, usual = found.traffic, found.round
    if usual.devices:
        _row(table, "a round in mid-run, one device", usual.bytes_down, usual.bytes_up)
        name = f"a round in mid-run, the {_devices(usual.devices)} sampled for it"
        _row(table, name, usual.bytes_down * usual.devices, usual.bytes_up * usual.devices)
        table.add_section()
    for stretch in traffic.stretches:
        _row(table, _stretch_name(stretch, traffic), stretch.bytes_down, stretch.bytes_up)
    table.add_section()
    _row(table, f"the whole run, all of {_devices(traffic.devices)}", traffic.bytes_down, traffic.bytes_up)
    return table


def assumptions(found: Estimate) -> list[str]:
    """What the bytes take for granted, in sentences."""
    config, traffic = found.config, found.traffic
    taken = ["every device answers"]
    if any(stretch.rounds for stretch in traffic.stretches):
        patience = config.evaluation.patience is not None
        taken.append("no round is left out" + (", although evaluation.patience may end the run sooner" * patience))
    if traffic.warm_up and config.warm_up.rounds is None:
        taken.append(f"the warm-up takes the {_rounds(traffic.warm_up)} it may (a good model ends it sooner)")
    if isinstance(config.sharing.count, str) and any(stretch.name == CountLayers.name for stretch in traffic.stretches):
        taken.append(f"half of the layers are shared (sharing.count={config.sharing.count} decides in the run)")
    if config.method == "adalora":
        taken.append("triplets are pruned at random (importance decides in the run: a few percent more or less)")
    lines = []
    if found.counted is not None:
        lines.append(
            f"'{config.model.name}' has a config.json and no weights: memory is computed from shapes, with fused "
            "attention and without what the program itself takes; time is not known."
        )
    lines += [f"Bytes are those that summary.json of a run on one machine counts. Assumed: {'; '.join(taken)}."]
    if found.workers > 1:
        lines.append(
            f"Time and memory are measured in one process; the time is that of {found.workers} which share it equally, "
            "each of which takes some more memory."
        )
    if found.kept_bytes:
        lines.append(
            f"What frozen layers compute is kept: about {found.kept_bytes / 1e6:,.1f} MB more memory "
            "(training.cache_mb)."
        )
    if found.together > 1:
        lines.append(
            f"Time and memory are measured for one device at a time; {found.together} in one pass take less time, and "
            "more memory for what a pass keeps."
        )
    if traffic.met < traffic.devices:
        lines.append(f"{traffic.met} of the {traffic.devices} devices are sampled at least once.")
    return lines


def _row(table: Table, name: str, down: int, up: int) -> None:
    table.add_row(name, f"{down:,}", f"{up:,}")


def _stretch_name(stretch: Stretch, traffic: ExpectedTraffic) -> str:
    who = _devices(stretch.devices)
    if stretch.rounds is None:
        return f"{stretch.name}, once, {who}"
    first, last = stretch.rounds
    which = f"round {first}" if first == last else f"rounds {first} to {last}"
    kind = "warm-up, " if last <= traffic.warm_up else ""
    return f"{kind}{which}, {who}{'' if first == last else ' each'}"


def _devices(number: int) -> str:
    return "1 device" if number == 1 else f"{number:,} devices"


def _rounds(number: int) -> str:
    return "1 round" if number == 1 else f"{number:,} rounds"
