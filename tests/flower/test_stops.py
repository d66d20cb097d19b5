"""How a run over machines ends is said in sentences, and so is what else the server is doing."""

import fcntl
import importlib.util
import logging
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed import RunFailed
from fibecfed.flower.locks import announced
from fibecfed.flower.processes import APP


@pytest.mark.parametrize(("error", "traceback"), [(RunFailed("too few replies"), False), (ValueError("a bug"), True)])
def test_an_expected_stop_prints_no_traceback(error: Exception, traceback: bool) -> None:
    spec = importlib.util.spec_from_file_location("fibecfed_server_app", APP / "fibecfed_server_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    info = (type(error), error, None)
    record = logging.LogRecord("flwr", logging.ERROR, "", 0, "%s raised an exception", ("ServerApp",), info)
    assert module._without_traceback(record)
    assert (record.exc_info is not None) == traceback
    assert ("too few replies" in record.getMessage()) != traceback


def test_runs_of_one_server_know_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "99999").write_text("left by one that was killed")
    with announced(tmp_path, "a") as others:
        assert others == []
    assert list(tmp_path.iterdir()) == []
    with (tmp_path / "12345").open("w") as other:  # as another process has it while its run goes on
        other.write("/runs/first")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with announced(tmp_path, "/runs/second") as others:
            assert others == ["/runs/first"]
