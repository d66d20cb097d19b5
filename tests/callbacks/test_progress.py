"""What a run says of itself while it goes: a live line on a terminal, a line for each exchange in a log."""

import io
import re
from types import SimpleNamespace

from rich.console import Console

import fibecfed
from fibecfed import Config, load_config
from fibecfed.callbacks import RunProgress
from fibecfed.federation import Costs, Failure


def shown(small: Config, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80, color_system=None)
    fibecfed.run(small, callbacks=[RunProgress(console)])
    return text.getvalue()


def test_a_log_has_round_score_devices_and_bytes(small: Config) -> None:
    lines = shown(small, terminal=False).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["round 1/2", "round 2/2"]
    score = r"global 0\.\d{3} personalized 0\.\d{3}  loss \d\.\d{3}"
    assert re.fullmatch(rf"round 1/2  {score}  3 devices  \d+\.\d MB  left 0:\d\d", lines[0])
    assert re.fullmatch(rf"round 2/2  {score}  3 devices  \d+\.\d MB", lines[1])


def test_a_live_line_fits_in_eighty_columns(small: Config) -> None:
    last = shown(small, terminal=True).rsplit("\x1b[2K", 1)[1].partition("\x1b[?25h")[0]
    first, second = last.splitlines()
    assert max(len(first), len(second)) <= 80
    assert re.fullmatch(r"round 2/2 ━+ +3 devices  \d+\.\d MB +00:00", first)
    assert re.fullmatch(r" +global 0\.\d{3} personalized 0\.\d{3}  loss \d\.\d{3} +", second)


def test_devices_that_were_left_out_are_counted() -> None:
    text = io.StringIO()
    progress = RunProgress(Console(file=text, width=80))
    state = SimpleNamespace(round=0, costs=Costs(bytes_up=1_500_000))
    progress.started(SimpleNamespace(config=load_config(federation={"rounds": 2})), state, [])  # type: ignore[arg-type]
    done = SimpleNamespace(
        stage=SimpleNamespace(is_round=True), round=1, state=SimpleNamespace(round=1, costs=state.costs), loss=0.5,
        cohort=(0, 1, 2), failures=(Failure(1, "it came late", "late"),), states_lost=(),
    )  # fmt: skip
    progress.stage_done(done, None)  # type: ignore[arg-type]
    left_out, line = text.getvalue().splitlines()
    assert left_out == "round 1: device 1 left out: it came late"
    assert line.startswith("round 1/2  loss 0.500  2 of 3 devices  1.5 MB  left 0:")
