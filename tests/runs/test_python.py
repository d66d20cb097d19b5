"""What someone sees who uses fibecfed from Python."""

import os
import stat
from pathlib import Path

import pytest

import fibecfed
from fibecfed import Config, InputError


@pytest.fixture(scope="module")
def usual() -> int:
    """The mode of a new file."""
    umask = os.umask(0o022)
    os.umask(umask)
    return 0o666 & ~umask


def test_a_result_is_a_few_lines_and_says_what_to_do(small: Config, tmp_path: Path) -> None:
    shown = repr(fibecfed.run(small, tmp_path / "run"))
    assert len(shown.splitlines()) <= 10
    assert max(map(len, shown.splitlines())) < 200
    for words in (small.method, "accuracy: global 0.", f"fibecfed.load({str(tmp_path / 'run')!r})", "summary, metrics"):
        assert words in shown


def test_progress_is_shown_where_someone_watches(
    small: Config, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fibecfed.run(small)
    assert capfd.readouterr() == ("", "")
    fibecfed.run(small, progress=True)
    out, shown = capfd.readouterr()
    assert out == ""
    assert f"round {small.federation.rounds}/{small.federation.rounds}  global 0." in shown
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    fibecfed.run(small)
    assert "round" in capfd.readouterr().err
    fibecfed.run(small, progress=False)
    assert capfd.readouterr().err == ""


def test_every_file_of_an_adapter_is_as_readable_as_the_others(small: Config, tmp_path: Path, usual: int) -> None:
    fibecfed.run(small, tmp_path / "run")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run" / "adapter").iterdir()}
    assert "adapter_model.safetensors" in modes
    assert set(modes.values()) == {usual}
    assert stat.S_IMODE((tmp_path / "run" / "checkpoint.safetensors").stat().st_mode) == usual


def refusal(out: Path, small: Config, force: bool = False) -> str:
    with pytest.raises(InputError) as raised:
        fibecfed.run(small, out, force=force)
    return str(raised.value)


def test_errors_speak_python(small: Config, tmp_path: Path) -> None:
    run, file, other = tmp_path / "run", tmp_path / "file", tmp_path / "other"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 1\n")
    file.write_text("x")
    other.mkdir()
    (other / "mine.txt").write_text("x")
    said = [refusal(run, small), refusal(file, small), refusal(other, small), refusal(other, small, force=True)]
    assert f"fibecfed.resume({str(run)!r})" in said[0] and "force=True" in said[0]
    with pytest.raises(InputError) as unfinished:
        fibecfed.load(run)
    with pytest.raises(InputError) as nothing:
        fibecfed.evaluate_run(run)
    for sentence in (*said, str(unfinished.value), str(nothing.value)):
        assert "--" not in sentence and "KEY=VALUE" not in sentence, sentence
