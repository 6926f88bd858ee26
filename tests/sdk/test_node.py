"""SDKs for Node, unmodified: what the scripts in node/ say about them."""

import json
import os
import subprocess

import pytest
from harness.programs import NEEDS_NODE, NODE_TESTS


@NEEDS_NODE
@pytest.mark.parametrize("script", sorted(NODE_TESTS.glob("*.test.mjs")), ids=lambda script: script.stem)
def test_every_test_of_the_script_passes(urls, script):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "NODE_"))}
    environment |= {"PIROPIRO_URLS": json.dumps(urls), "AI_SDK_LOG_WARNINGS": "false"}
    run = subprocess.run(
        ["node", "--test-reporter=spec", script],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert run.returncode == 0, run.stdout + run.stderr
