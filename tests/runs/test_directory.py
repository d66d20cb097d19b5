"""Where a run may be written, by whom, and what is left when it was killed or the disk was full."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fibecfed
from crash import Crash, CrashAt
from fibecfed import Config, InputError, RunFailed
from fibecfed.cli.app import app
from fibecfed.config import build_config, expanded, merge, to_dict, to_yaml
from fibecfed.results import RunDirectory, only_writer
from run_content import content

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("4711\\n")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def one(small: Config) -> Config:
    return build_config(merge(to_dict(small), {"federation": {"rounds": 1}}))


def test_a_second_process_is_refused_until_the_first_is_dead(
    one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fibecfed.results.lock._PATIENCE", 0.1)
    run = tmp_path / "run"
    fibecfed.run(one, run)
    before = content(run)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(run / ".lock")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=r"being written in '.*run' by another process \(process"):
            fibecfed.resume(run)
        with pytest.raises(InputError, match="another process"):
            fibecfed.run(one, run, force=True)
        assert content(run) == before
        assert fibecfed.evaluate_run(run)["round"] == 1  # reading is no writing
    finally:
        other.kill()
        other.wait()
    fibecfed.resume(run)
    assert content(run) == before


def test_the_same_thread_may_hold_it_twice_and_another_thread_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fibecfed.results.lock._PATIENCE", 0.1)

    def take() -> None:
        with only_writer(tmp_path):
            pass

    with ThreadPoolExecutor(1) as pool, only_writer(tmp_path), only_writer(tmp_path):
        refused = pool.submit(take).exception()
    assert isinstance(refused, InputError)
    assert "another process" in str(refused)
    take()


@pytest.mark.parametrize("where", ["empty", "link", ".", "~/run", "hidden", "root"])
def test_any_empty_folder_may_be_out(one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder)
    if where == "hidden":
        (folder / ".DS_Store").write_text("")
    if where == "root":  # what a file system puts in its root
        (folder / "lost+found").mkdir()
    out = {"link": tmp_path / "link", "~/run": Path("~/run"), ".": Path(".")}.get(where, folder)
    for force in (False, True):
        path = expanded(out)
        with only_writer(path):
            RunDirectory.create(path, one, "", force)
        real = folder / "run" if where == "~/run" else folder
        assert (real / "config.yaml").is_file()
        assert RunDirectory.open(out).config() == one
    assert where != "." or fibecfed.run(one, out, force=True).directory == Path(".")
    assert (tmp_path / "link").is_symlink()
    assert not (folder / "~").exists()
    assert where != "root" or (folder / "lost+found").is_dir()


def test_the_command_takes_the_home_folder(one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text(to_yaml(one))
    result = CliRunner().invoke(app, ["run", str(tmp_path / "run.yaml"), "--out", "~/runs/one"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "one" / "summary.json").is_file()
    assert CliRunner().invoke(app, ["run", "--resume", "~/runs/one"]).exit_code == 0


def out_is_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def out_is_under_a_file(folder: Path) -> Path:
    return out_is_a_file(folder) / "run"


def out_is_a_broken_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


def out_has_a_name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def out_holds_letters(folder: Path) -> Path:
    (folder / "letters").mkdir()
    (folder / "letters" / "one.txt").write_text("")
    return folder / "letters"


@pytest.mark.parametrize(
    "make", [out_is_a_file, out_is_under_a_file, out_is_a_broken_link, out_has_a_name_too_long, out_holds_letters]
)
@pytest.mark.parametrize("force", [True, False])
def test_out_is_checked_before_anything_is_loaded(
    one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object, force: bool
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("it was loaded first")

    monkeypatch.setattr("fibecfed.runs.run.assemble", loaded)
    with pytest.raises(InputError, match=r"another out|must name a directory|cannot be used as out"):
        fibecfed.run(one, make(tmp_path), force=force)  # type: ignore[operator]


def test_out_that_cannot_be_written_is_found_first(
    one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fibecfed.runs.run.assemble", lambda *_: pytest.fail("it was loaded first"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match="Nothing can be written in"):
        fibecfed.run(one, tmp_path / "a" / "run")


def test_force_deletes_a_run_and_nothing_else(one: Config, tmp_path: Path) -> None:
    fibecfed.run(one, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run" / "method.json").write_text("of the earlier run")
    fibecfed.run(one, tmp_path / "run", force=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "run" / "method.json").exists()
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_force_in_a_project_folder_deletes_nothing(one: Config, tmp_path: Path) -> None:
    """A config.yaml of one's own does not make a folder a run."""
    for name in ("config.yaml", "README.md", "data.csv"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="something other than a run"):
        fibecfed.run(one, tmp_path, force=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(
        ("config.yaml", "README.md", "data.csv"), "mine"
    )


def test_force_keeps_the_earlier_run_where_the_new_one_cannot_be_written(
    one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    fibecfed.run(one, run)
    before = content(run)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fibecfed.results.directory.write_atomically", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        fibecfed.run(one, run, force=True)
    assert content(run) == before
    assert RunDirectory.open(run).config() == one
    assert not list(run.glob(".*.tmp"))


def test_a_full_disk_is_not_taken_for_a_failed_device(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round would go on without the device, and the resumed run would not be that of an undisturbed one."""
    config = build_config(merge(to_dict(small), {"method": "local-only"}))
    fibecfed.run(config, tmp_path / "whole")
    replace, states = os.replace, []

    def full(source: Path, target: Path) -> None:
        if Path(target).parent.parent.name == "devices":
            states.append(target)
            if len(states) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunFailed, match=r"its state could not be written to .*No space left on device"):
        fibecfed.run(config, tmp_path / "run")
    fibecfed.resume(tmp_path / "run")
    monkeypatch.undo()
    assert content(tmp_path / "run") == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "adapter", "summary.json"])
def test_after_a_full_disk_the_run_can_go_on(
    one: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(one))
    run, replace, is_full = tmp_path / "run", os.replace, [True]

    def full(source: Path, target: Path) -> None:
        if is_full[0] and Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", lambda self, target: full(self, target))
    arguments = ["run", str(tmp_path / "run.yaml"), "--out", str(run)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 1, result.output
    assert f"{name}' could not be written: No space left on device" in result.output
    assert f"--resume {run}" in result.output
    assert not list(run.rglob(".*.tmp"))
    is_full[0] = False
    fibecfed.resume(run)
    assert (run / "summary.json").is_file()


def test_what_a_killed_process_was_writing_is_cleared(small: Config, tmp_path: Path) -> None:
    config = build_config(merge(to_dict(small), {"method": "local-only"}))
    run = tmp_path / "run"
    with pytest.raises(Crash):
        fibecfed.run(config, run, callbacks=[CrashAt(1)])
    device = next((run / "devices").iterdir())
    beside = device / "residual"
    for path in (
        run / ".metrics.jsonl.17.tmp", device / ".2.safetensors.17.tmp", beside / ".2.safetensors.17.tmp",
        run / "adapters" / ".3.17.tmp" / "x",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    (run / ".own.tmp").write_text("mine")
    fibecfed.resume(run)
    assert [p.name for p in run.rglob(".*.tmp")] == [".own.tmp"]


def test_a_run_killed_at_its_first_file_leaves_an_empty_folder(one: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".config.yaml.17.tmp"):
        (tmp_path / "run" / name).write_text("")
    fibecfed.run(one, tmp_path / "run")
    assert not (tmp_path / "run" / ".config.yaml.17.tmp").exists()
