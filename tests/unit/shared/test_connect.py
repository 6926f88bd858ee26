import pytest
from redis.asyncio.sentinel import SentinelConnectionPool

from shared.connect import connect, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://user:pa:ss@host:1/2", "rediss://***@host:1/2"),
        ("redis+sentinel://:pw@a:1,b:2/main", "redis+sentinel://***@a:1,b:2/main"),
    ],
)
def test_a_password_is_redacted(url, shown):
    assert redact(url) == shown


def test_a_sentinel_url_names_sentinels_service_and_database():
    pool = connect("redis+sentinel://user:p%40ss@a:26379,b:26380/main/2").connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    hosts = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(h["host"], h["port"]) for h in hosts] == [("a", 26379), ("b", 26380)]
    assert pool.connection_kwargs["db"] == 2
    assert (pool.connection_kwargs["username"], pool.connection_kwargs["password"]) == ("user", "p@ss")


@pytest.mark.parametrize("url", ["redis://h:1/3", "rediss://h:1/3", "unix:///tmp/redis.sock?db=3"])
def test_other_urls_name_a_server_and_database(url):
    assert connect(url).connection_pool.connection_kwargs["db"] == 3
