"""The two clients of the article that Piropiro comes from, as they stand there but for the host."""

import subprocess

from harness.programs import NEEDS_CURL
from harness.sse import parse

HOST = "http://127.0.0.1:8000"
CURL = """\
curl -N \\
-H "Content-Type: application/json" \\
-d '{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"やっほ"}]}' \\
http://127.0.0.1:8000/v1/chat/stream
"""
SCRIPT = """\
#!/usr/bin/env bash
URL="http://127.0.0.1:8000/v1/chat/stream"
PAYLOAD='{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"やっほ"}]}'
curl -sN \\
-H "Content-Type: application/json" \\
-d "${PAYLOAD}" \\
"${URL}" |
while IFS= read -r line; do
if [[ $line == data:* ]]; then
printf '%s' "${line#data: }"
elif [[ $line == event:\\ done ]]; then
break
fi
done
printf '\\n'
"""
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "やっほ"},
]

pytestmark = NEEDS_CURL


def run(script: str, url: str) -> bytes:
    return subprocess.run(
        ["bash", "-c", script.replace(HOST, url)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    ).stdout


async def test_curl_prints_deltas_and_then_done(stack):
    printed = run(CURL, stack.apis[0].url)
    *deltas, done = parse(printed)
    assert len(deltas) > 10
    assert [event.name for event in deltas] == [""] * len(deltas)
    assert "".join(event.data for event in deltas).startswith("やっほ")
    assert printed.decode().endswith(f"event: done\nid: {done.id}\ndata: [DONE]\n\n")


async def test_the_shell_script_prints_the_answer_and_nothing_else(stack, api):
    reading = await api.ask({"messages": MESSAGES, "simulator": {"ttft": 0, "interval": 0}})
    answer = "".join(event.data for event in reading.events[:-1])
    assert run(SCRIPT, stack.apis[0].url).decode() == answer.replace("\n", "") + "\n"
