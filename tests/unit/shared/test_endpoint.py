import pytest

from shared.endpoint import Endpoint, redact, secrets
from shared.settings import Settings


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("https://host/v1", "https://host/v1/models/a%2Fb"),
        ("https://me:secret@host/v1/", "https://host/v1/models/a%2Fb"),
        ("http://host:1234?api-version=1", "http://host:1234/models/a%2Fb?api-version=1"),
    ],
)
def test_addresses_are_below_the_base(base, address):
    assert str(Endpoint.of(Settings(openai_base_url=base)).url("models/a%2Fb")) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-abcDEF-123*4.", "Incorrect API key provided: ***"),
        ("Authorization: Bearer abc.def rejected", "Authorization: *** rejected"),
        ("at http://user:pass@host/v1", "at http://***host/v1"),
        ("my-own-key was wrong", "*** was wrong"),
        ("nothing secret", "nothing secret"),
    ],
)
def test_secrets_are_redacted(text, shown):
    assert redact(text, "my-own-key") == shown


def test_all_that_only_the_worker_knows_is_secret():
    settings = Settings(
        openai_api_key="my-own-key",
        openai_base_url="http://me:my-password@host/v1",
        openai_custom_headers="a: value1\nb: x",
    )
    assert secrets(settings) == ["my-own-key", "my-password", "value1"]


def test_a_long_message_is_shortened():
    assert len(redact("x" * 10_000, "")) == 2000
