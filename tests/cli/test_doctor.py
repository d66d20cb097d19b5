"""The doctor finds what is wrong, says what to do, and fails only if something must be fixed."""

import importlib.metadata as metadata
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from fibecfed import load_config
from fibecfed.cli.app import app
from fibecfed.commands import pip_install
from fibecfed.doctor import Finding, check_certificate, check_listening, check_output, check_reachable, check_versions


def doctor(*arguments: str) -> tuple[int, str]:
    """Exit code and all that was printed, with line breaks made spaces."""
    result = CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def base(bert: Path, rows_file: Path, tmp_path: Path) -> list[str]:
    return [f"model.name={bert}", f"data.file={rows_file}", "--out", str(tmp_path / "new" / "run")]


def test_a_machine_in_order(base: list[str], tmp_path: Path) -> None:
    code, output = doctor(*base)
    assert code == 0, output
    settings = "ok settings: fibecfed-plus (lora)"
    for line in ("ok python:", "ok packages:", settings, "sha256", "billing (", "can be written"):
        assert line in output
    assert output.endswith("Everything is in order.")
    assert not list(tmp_path.iterdir())  # nothing was written


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.file=nowhere.csv", "fix data: nowhere cannot be used -> Data file 'nowhere.csv' does not exist."),
        ("data.label=mood", "has no column 'mood'"),
        ("model.name=nowhere/model", "fix model: nowhere/model cannot be used -> Model 'nowhere/model' is neither"),
        ("method=fedavg-lra", "Did you mean 'fedavg-lora'?"),
        ("--out=/proc/version/run", "fix output: '/proc/version' is a file"),
    ],
)
def test_what_must_be_fixed(base: list[str], change: str, said: str) -> None:
    code, output = doctor(*base, change)
    assert code == 2, output
    assert said in output
    assert "to fix." in output


def test_a_tokenizer_larger_than_the_embeddings(base: list[str], bert: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert, tmp_path / "added"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["lovely", "superb"])
    tokenizer.save_pretrained(folder)
    code, output = doctor(*base, f"model.name={folder}")
    assert code == 2
    assert "fix tokenizer: knows 2 tokens that the model has no embedding for ('lovely', 'superb')" in output
    assert "resize_token_embeddings" in output


def test_targets_that_the_model_does_not_have(base: list[str]) -> None:
    code, output = doctor(*base, "lora.targets=[out_proj]")
    assert code == 2
    assert "lora.targets names ['out_proj']; the model's linear maps are query" in output


def test_more_than_a_thousand_labels(base: list[str], tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("text,label\n" + "".join(f"message {i},label {i % 1200}\n" for i in range(2400)))
    code, output = doctor(*base, f"data.file={path}")
    assert code == 2
    assert "has 1200 distinct labels" in output and "give the rare labels one name together" in output


def test_too_little_room(monkeypatch: pytest.MonkeyPatch, base: list[str], tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2**20})())
    (finding,) = check_output(tmp_path, load_config(None, base[:2]))
    assert finding.fix is not None
    assert "make room" in finding.fix


def test_packages_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "typer":
            raise metadata.PackageNotFoundError(name)
        return "4.0.1" if name == "transformers" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {f.text: f.fix for f in check_versions() if f.fix}
    assert found["typer is not installed"] == pip_install("typer>=0.15")
    assert any(text.startswith("transformers 4.0.1 is not") for text in found)
    assert len(found) == 2


def test_an_option_without_its_certificate_is_a_mistake() -> None:
    code, output = doctor("--host", "server")
    assert code == 2
    assert "--certificate" in output


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's certificate that it signed for localhost, an expired one, and another pair."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(*new, "-x509", "-days", "365", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem", cwd=folder)
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    for name, days in (("server", "365"), ("old", "0"), ("short", "7")):
        openssl(*new, "-subj", "/CN=localhost", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=folder)
        openssl("x509", "-req", "-in", f"{name}.csr", "-days", days, *signed, "-out", f"{name}.pem", cwd=folder)
        (folder / f"{name}.key").chmod(0o600)
    openssl(*new, "-x509", "-days", "9", "-subj", "/CN=other", "-keyout", "other.key", "-out", "other.pem", cwd=folder)
    (folder / "other.key").chmod(0o600)
    (folder / "text.pem").write_text("no certificate")
    return folder


def certificate(folder: Path, name: str, key: str | None, authority: str | None, host: str | None) -> list[Finding]:
    paths = [None if n is None else folder / n for n in (key, authority)]
    return list(check_certificate(folder / name, *paths, host))


def test_a_good_certificate(certificates: Path) -> None:
    for host in ("localhost", "127.0.0.1", None):
        (finding,) = certificate(certificates, "server.pem", "server.key", "ca.pem", host)
        assert finding.fix is None, finding
        assert "for localhost, 127.0.0.1; valid for 36" in finding.text
    (finding,) = certificate(certificates, "server.pem", "server.key", None, "localhost")
    assert finding.fix is None, finding


@pytest.mark.parametrize(
    ("name", "key", "authority", "host", "said", "advice"),
    [
        ("none.pem", "server.key", "ca.pem", None, "cannot be read", "name the right file"),
        ("text.pem", "server.key", "ca.pem", None, "cannot be used together", "PEM"),
        ("server.pem", "other.key", "ca.pem", None, "cannot be used together", "does not belong to the certificate"),
        ("server.pem", "server.key", "text.pem", None, "cannot be used", "make it again"),
        ("old.pem", "old.key", "ca.pem", "localhost", "certificate has expired", "make a new one"),
        ("old.pem", "old.key", None, None, "certificate has expired", "make a new one"),
        ("server.pem", "server.key", "ca.pem", "example.org", "would be refused: Hostname mismatch", "subjectAltName"),
        ("server.pem", "server.key", "ca.pem", "10.0.0.1", "would be refused: IP address mismatch", "subjectAltName"),
        ("server.pem", "server.key", "other.pem", "localhost", "would be refused", "--authority"),
    ],
)
def test_a_certificate_that_will_not_do(
    certificates: Path, name: str, key: str, authority: str | None, host: str | None, said: str, advice: str
) -> None:
    (finding,) = certificate(certificates, name, key, authority, host)
    assert said in finding.text
    assert finding.fix is not None
    assert advice in finding.fix


def test_a_certificate_that_ends_soon_is_accepted_and_said_to(certificates: Path) -> None:
    (finding,) = certificate(certificates, "short.pem", "short.key", "ca.pem", "localhost")
    assert finding.fix is None
    assert "valid for 6 more days only: make a new one soon" in finding.text


def test_a_key_that_others_can_read(certificates: Path, tmp_path: Path) -> None:
    key = tmp_path / "server.key"
    key.write_bytes((certificates / "server.key").read_bytes())
    key.chmod(0o644)
    first, *_ = check_certificate(certificates / "server.pem", key, certificates / "ca.pem", "localhost")
    assert first.fix == f"chmod 600 '{key}'"


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert [f.fix for f in check_reachable(address)] == [None]
        (taken,) = check_listening(address)
        assert taken.fix is not None
        assert "another port" in taken.fix
    assert [f.fix for f in check_listening(address)] == [None]
    (silent,) = check_reachable(address)
    assert silent.fix is not None
    for wrong in ("server", "server:0", "server:99999", ":9"):
        (finding,) = check_reachable(wrong)
        assert finding.fix is not None
        assert "HOST:PORT" in finding.fix
