import pytest

from shared.settings import InvalidSettings, Settings


def test_defaults_are_those_of_the_contract(monkeypatch):
    for name in ("REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = Settings.from_env()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.model, settings.max_jobs, settings.retention, settings.keepalive) == ("gpt-4o-mini", 200, 3600, 15)
    assert (settings.max_body, settings.max_queue, settings.max_attempts) == (1_048_576, 1000, 3)
    assert (settings.max_output, settings.lease, settings.stall_timeout) == (4_194_304, 3, 60)
    assert (settings.job_timeout, settings.queue_timeout, settings.drain) == (600, 300, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://localhost"),
        ("OPENAI_BASE_URL", "localhost:1234"),
        ("OPENAI_BASE_URL", "http://"),
        ("OPENAI_API_KEY", "日本"),
        ("OPENAI_API_KEY", "sk-a\nb"),
        ("PIROPIRO_JOB_TIMEOUT", "1e300"),
        ("PIROPIRO_RETENTION", "0.0001"),
        ("PIROPIRO_MAX_QUEUE", "99999999999"),
        ("PIROPIRO_MODEL", " "),
        ("PIROPIRO_MAX_JOBS", "0"),
        ("PIROPIRO_MAX_JOBS", "many"),
        ("PIROPIRO_RETENTION", "-1"),
        ("PIROPIRO_KEEPALIVE", "inf"),
        ("PIROPIRO_LEASE", "nan"),
        ("PIROPIRO_CONTINUE_PARAMS", "[]"),
        ("PIROPIRO_CONTINUE_PARAMS", "{"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        Settings.from_env()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("PIROPIRO_MAX_JOBS", "")
    assert Settings.from_env().max_jobs == 200


def test_white_space_around_the_key_is_none_of_its(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-abc\n")
    assert Settings.from_env().openai_api_key.get_secret_value() == "sk-abc"


def test_the_key_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in repr(Settings.from_env())
