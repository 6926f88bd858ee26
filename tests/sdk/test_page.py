"""`docs/openai.md`, and README's section about it: every piece of code on them runs as it stands.

What it prints is what the page says; README is short and says nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.page import blocks, check_output, on_this_machine
from harness.programs import NEEDS_CURL, NEEDS_NODE, NODE_TESTS

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"
README = PAGE.parents[1] / "README.md"
SECTION = "Use it from the OpenAI SDK"
ANSWER = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12."
WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


def parts(language):
    return [pytest.param(block, id=str(number)) for number, block in enumerate(blocks(PAGE, language))]


@pytest.fixture
def addresses(stack):
    """Where the page says that the replicas are, and where they are."""
    one, other = (api.url for api in stack.apis)
    return {"http://127.0.0.1:8000": one, "http://127.0.0.1:8001": one, "http://127.0.0.1:8002": other}


def output_of(command, code, folder):
    program = subprocess.run(
        command,
        input=code,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=WITHOUT_SETTINGS,
        text=True,
        timeout=55,
        check=False,
    )
    return program.stdout


@pytest.mark.parametrize("block", parts("python"))
def test_python_prints_what_the_page_says(addresses, block, tmp_path):
    check_output(block, output_of([sys.executable, "-"], on_this_machine(block.code, addresses), tmp_path))


@NEEDS_NODE
@pytest.mark.parametrize("block", parts("js"))
def test_node_prints_what_the_page_says(addresses, block):
    command = ["node", "--input-type=module", "-"]
    check_output(block, output_of(command, on_this_machine(block.code, addresses), NODE_TESTS))


@NEEDS_CURL
@pytest.mark.parametrize("block", parts("sh"))
def test_curl_prints_what_the_page_says(addresses, block, shell):
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
