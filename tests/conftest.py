"""Makes `tests/harness` importable, and its fixtures known to every test."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["harness.fixtures", "harness.redis_server"]
