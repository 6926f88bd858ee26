"""`piropiro worker`: which upstream it takes, and its file for a healthcheck."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.failure import StartFailed
from cli.main import app
from cli.upstream import with_upstream
from shared.settings import Settings

SIMULATOR = "http://simulator:9000/v1"


@pytest.fixture(autouse=True)
def _no_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_without_an_upstream_it_is_the_simulator_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        settings = with_upstream(Settings.from_env(), SIMULATOR)
    assert settings.openai_base_url == SIMULATOR
    assert settings.openai_api_key is not None
    assert [record.message for record in caplog.records] == [
        "no OPENAI_API_KEY: answers come from the simulator; set OPENAI_API_KEY to use the real thing"
    ]


def test_empty_variables_are_no_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert with_upstream(Settings.from_env(), SIMULATOR).openai_base_url == SIMULATOR


@pytest.mark.parametrize(
    ("variable", "value"), [("OPENAI_API_KEY", "sk-real"), ("OPENAI_BASE_URL", "https://llm.example/v1")]
)
def test_an_upstream_that_is_set_is_kept(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    settings = Settings.from_env()
    assert with_upstream(settings, SIMULATOR) is settings


def test_other_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROPIRO_MAX_JOBS", "7")
    assert with_upstream(Settings.from_env(), SIMULATOR).max_jobs == 7


def test_without_the_option_nothing_changes() -> None:
    settings = Settings.from_env()
    assert with_upstream(settings, None) is settings


@pytest.mark.parametrize("url", ["simulator:9000", "http://", ""])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(StartFailed, match="--simulator") as failure:
        with_upstream(Settings.from_env(), url)
    assert failure.value.exit_status == 2


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.worker.check_redis", lambda _: None)
    result = CliRunner().invoke(app, ["worker", "--alive-file", str(tmp_path / "nowhere" / "alive")])
    assert isinstance(result.exception, StartFailed)
    assert "--alive-file" in str(result.exception)
