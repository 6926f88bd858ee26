"""Models through the official SDK."""

import openai
import pytest


async def test_models_are_the_upstreams(async_client):
    names = [model.id async for model in async_client.models.list()]
    assert "simulator" in names
    assert (await async_client.models.retrieve(names[0])).id == names[0]


def test_a_model_that_the_upstream_does_not_know_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/knows")
    assert caught.value.code == "model_not_found"
