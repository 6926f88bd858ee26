import pytest
from redis.asyncio.sentinel import SentinelConnectionPool

from shared.connect import connect


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
