"""Programs of the machine that a few tests need; CI installs them, so that it skips nothing."""

import shutil
from pathlib import Path

import pytest

from faults.deploy import HAPROXY

NEEDS_CURL = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="runs curl and bash as a user would"
)

NEEDS_REDIS_CLI = pytest.mark.skipif(not shutil.which("redis-cli"), reason="looks at the log with redis-cli")

NEEDS_HAPROXY = pytest.mark.skipif(not HAPROXY, reason="deploys behind a real HAProxy")

NODE_TESTS = Path(__file__).parents[1] / "sdk" / "node"

NEEDS_NODE = pytest.mark.skipif(
    not (NODE_TESTS / "node_modules" / ".installed").exists(), reason="runs Node's SDKs, which scripts/node.sh installs"
)
