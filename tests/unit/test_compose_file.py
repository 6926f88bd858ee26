"""docker-compose.yml and .env.example know every setting."""

from pathlib import Path

import pytest
import yaml

from shared.settings import Settings

ROOT = Path(__file__).parents[2]
SETTINGS = {name for field in Settings.model_fields.values() for name in field.validation_alias.choices}


@pytest.mark.parametrize("service", ["worker", "api"])
def test_a_service_gets_every_setting_it_reads(service):
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert services[service]["environment"].keys() == SETTINGS


def test_the_example_names_every_setting():
    example = (ROOT / ".env.example").read_text()
    assert [name for name in SETTINGS - {"REDIS_URL"} if f"#{name}=" not in example] == []
