"""`docs/tour.md`, command by command: each prints what the page says that it prints."""

from pathlib import Path

import pytest
from harness.page import blocks, check_output, on_this_machine
from harness.programs import NEEDS_CURL, NEEDS_REDIS_CLI

TOUR = Path(__file__).parents[2] / "docs" / "tour.md"

pytestmark = [NEEDS_CURL, NEEDS_REDIS_CLI, pytest.mark.timeout(120)]


def test_every_command_prints_what_the_tour_says(start_stack, shell):
    stack = start_stack(apis=2)
    addresses = {
        "http://127.0.0.1:8001": stack.apis[0].url,
        "http://127.0.0.1:8002": stack.apis[1].url,
        "redis://127.0.0.1:6379/0": stack.server.url,
    }
    tour = blocks(TOUR, "sh")
    assert len(tour) > 10
    for block in tour:
        check_output(block, shell.run(on_this_machine(block.code, addresses)))
