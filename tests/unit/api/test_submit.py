import pytest

from api.errors import ApiError
from api.submit import Options, compose_chat, new_chat
from shared import json_text
from shared.chat import OnDisconnect, OnWorkerLoss, Surface

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def submit(body, **options):
    raw = body if isinstance(body, bytes) else json_text.dumps(body)
    return new_chat(raw, Options(**options), "default-model")


def test_only_model_stream_and_usage_are_added():
    body = {**HELLO, "temperature": 0.1, "x": {"deep": [None, 10**30]}, "stream": False}
    request = json_text.loads(submit(body).request)
    assert request == {
        **body,
        "model": "default-model",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_the_clients_own_model_and_stream_options_stand():
    body = {**HELLO, "model": "mine", "stream_options": {"include_usage": False, "y": 1}}
    chat = submit(body)
    assert chat.model == "mine"
    assert json_text.loads(chat.request)["stream_options"] == {"include_usage": False, "y": 1}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{"role": "user"}, {}]}, "messages[1].role"),
        ({**HELLO, "model": 1}, "model"),
        ({**HELLO, "model": "\ud83d"}, "model"),
        ({**HELLO, "n": 2}, "n"),
        ({**HELLO, "n": 1.0}, "n"),
        ({**HELLO, "n": True}, "n"),
        ({**HELLO, "stream_options": 1}, "stream_options"),
        ({**HELLO, "stream_options": False}, "stream_options"),
        (b"\xff", None),
        (b"", None),
        (b"[]", None),
        (b'{"messages": NaN}', None),
        (b"[" * 100_000, None),
        (b'{"messages": [{"role": "user"}], "x": 1e999}', None),
    ],
)
def test_a_bad_body_is_400_and_names_the_field(body, param):
    with pytest.raises(ApiError) as caught:
        submit(body)
    assert caught.value.status == 400
    assert caught.value.param == param


def test_the_headers_choose_among_their_values():
    chat = submit(HELLO, on_worker_loss="Continue", on_disconnect="cancel")
    assert (chat.on_worker_loss, chat.on_disconnect) == (OnWorkerLoss.CONTINUE, OnDisconnect.CANCEL)
    chat = submit(HELLO, on_worker_loss="", on_disconnect=None)
    assert (chat.on_worker_loss, chat.on_disconnect) == (OnWorkerLoss.RESTART, OnDisconnect.KEEP)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"on_worker_loss": "explode"}, "X-Piropiro-On-Worker-Loss"),
        ({"on_disconnect": "explode"}, "X-Piropiro-On-Disconnect"),
        ({"idempotency_key": "x" * 256}, "Idempotency-Key"),
    ],
)
def test_a_bad_header_is_400_and_names_it(options, param):
    with pytest.raises(ApiError) as caught:
        submit(HELLO, **options)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_fingerprint_is_that_of_the_parsed_body():
    a = submit(b'{"messages": [{"role": "user", "content": "\\u3084"}], "x": 1}')
    b = submit('{"x":1,"messages":[{"content":"や","role":"user"}]}'.encode())
    c = submit('{"x":2,"messages":[{"content":"や","role":"user"}]}'.encode())
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert a.id != b.id


def completion(**fields):
    return compose_chat({**HELLO, **fields}, Options(), "default-model", Surface.COMPLETIONS)


def test_a_completion_may_have_several_choices_and_always_asks_for_usage():
    chat = completion(n=3, stream=False, stream_options={"include_usage": False, "y": 1})
    request = json_text.loads(chat.request)
    assert chat.surface is Surface.COMPLETIONS
    assert (request["n"], request["stream"]) == (3, True)
    assert request["stream_options"] == {"include_usage": True, "y": 1}


@pytest.mark.parametrize("n", [0, 129, "2", True, 1.0])
def test_a_completion_has_so_many_choices_at_most(n):
    with pytest.raises(ApiError) as caught:
        completion(n=n)
    assert caught.value.param == "n"


def test_the_same_body_on_another_surface_is_another_request():
    assert completion().fingerprint != submit(HELLO).fingerprint
    assert completion(n=1, x=2).fingerprint == completion(x=2, n=1).fingerprint
