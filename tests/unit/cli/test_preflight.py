"""The checks before a start: each failure is one line, without secrets."""

import pytest

from cli.failure import StartFailed
from cli.preflight import check_redis, read_settings, without_password
from shared.settings import Settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://me:s3cret@host:1/2", "rediss://host:1/2"),
        ("redis://:s3cret@host", "redis://host"),
        ("redis://:s3/cr@et@host:1", "redis://host:1"),
        ("redis://host:1/0?password=s3cret", "redis://host:1/0"),
        ("redis+sentinel://:s3cret@a:1,b:2/service/0", "redis+sentinel://a:1,b:2/service/0"),
        ("unix:///run/redis.sock?password=s3cret", "unix:///run/redis.sock"),
    ],
)
def test_shown_url_has_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("url", ["redis://:s3cret@127.0.0.1:1/0", "redis://:s3c/ret@127.0.0.1:1"])
def test_unreachable_redis_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(StartFailed) as failure:
        check_redis(Settings(redis_url=url))
    assert "\n" not in str(failure.value)
    assert "s3c" not in str(failure.value)


def test_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIROPIRO_MAX_JOBS", "many")
    with pytest.raises(StartFailed, match="PIROPIRO_MAX_JOBS") as failure:
        read_settings()
    assert failure.value.exit_status == 2
