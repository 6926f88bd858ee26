"""Makes `tests/harness` importable, and its fixtures known to every test."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["harness.fixtures", "harness.redis_server"]

# How long inputs take to make says something about the machine, and about the first run of a clean clone, not about us.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
