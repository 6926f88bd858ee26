"""`docs/openai.md`, and README's section about it: every piece of code on them runs as it stands.

What it prints is what the page says; README is short and says nothing.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness.page import blocks, check_output, on_this_machine
from harness.programs import NEEDS_CURL, NEEDS_NODE, NODE_TESTS

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"
README = PAGE.parents[1] / "README.md"
SECTION = "Use it from the OpenAI SDK"
ANSWER = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12."
AT_ONCE = 4
WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


@pytest.fixture
def addresses(stack):
    """Where the page says that the replicas are, and where they are."""
    one, other = (api.url for api in stack.apis)
    return {"http://127.0.0.1:8000": one, "http://127.0.0.1:8001": one, "http://127.0.0.1:8002": other}


def output_of(command, code, folder):
    return subprocess.run(
        command,
        input=code,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=WITHOUT_SETTINGS,
        text=True,
        timeout=50,
        check=False,
    ).stdout


def check_programs(language, command, folder, addresses):
    programs = blocks(PAGE, language)
    assert len(programs) > 2
    codes = [on_this_machine(block.code, addresses) for block in programs]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outputs = pool.map(lambda code: output_of(command, code, folder), codes)
        for block, printed in zip(programs, outputs, strict=True):
            check_output(block, printed)


def test_python_prints_what_the_page_says(addresses, tmp_path):
    check_programs("python", [sys.executable, "-"], tmp_path, addresses)


@NEEDS_NODE
def test_node_prints_what_the_page_says(addresses):
    check_programs("js", ["node", "--input-type=module", "-"], NODE_TESTS, addresses)


@NEEDS_CURL
def test_curl_prints_what_the_page_says(addresses, shell):
    for block in blocks(PAGE, "sh"):
        check_output(block, shell.run(on_this_machine(block.code, addresses)))


@NEEDS_NODE
@NEEDS_CURL
@pytest.mark.parametrize("language", ["python", "js", "sh"])
def test_what_the_readme_shows_gives_the_answer(addresses, shell, tmp_path, language):
    (block,) = blocks(README, language, section=SECTION)
    code = on_this_machine(block.code, addresses)
    match language:
        case "python":
            assert output_of([sys.executable, "-"], code, tmp_path).startswith(ANSWER)
        case "js":
            assert output_of(["node", "--input-type=module", "-"], code, NODE_TESTS).startswith(ANSWER)
        case "sh":
            printed = shell.run(code)
            assert "event: response.created\n" in printed
            assert ANSWER in printed.partition("event: response.completed\n")[2]
