"""What the simulator answers."""

import pytest

from simulator.answers import compose
from simulator.question import Message
from simulator.tokens import is_japanese


def ask(text: str) -> str:
    return compose([Message("user", text)])


def opening(text: str) -> str:
    return ask(text).split("\n\n")[0]


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        ("やっほ", "やっほー!"),
        ("おはよう", "おはようございます!"),
        ("Hello", "Hello!"),
        ("hey there", "Hey there!"),
        ("What is 2+2?", "2 + 2 = 4."),
        ("2+2は?", "2 + 2 = 4"),
        ("999999999 * 999999999", "999999999 * 999999999 = 999999998000000001"),
        ("10 / 4 =", "10 / 4 = 2.5"),
        ("7 / 0", "7 / 0 = nan"),
        ("count to 5", "1, 2, 3, 4, 5."),
        ("3まで数えて", "1、2、3。"),
        ("who are you?", "I am Piropiro's simulator"),
        ("What is Piropiro?", "Piropiro"),
        ("ピロピロって何?", "ピロピロは"),
        ("how does resuming work", "Every event"),
        ("translate 'good morning' please", "English: Good morning!"),
        ("Translate: xyzzy", "“Translate: xyzzy”"),
        ("tell me a story", "Once there was"),
        ("物語を書いて", "むかしむかし"),
        ("thank you", "You are welcome"),
        ("", "You have not said anything"),
        ("How do birds fly?", "You asked: “How do birds fly?”"),
        ("空はなぜ青い?", "「空はなぜ青い?」"),
        ("braces {} and {asked}", "You asked: “braces {} and {asked}”"),
    ],
)
def test_the_opening_fits_the_question(asked: str, start: str) -> None:
    assert opening(asked).startswith(start)


def test_code_is_answered_with_code() -> None:
    assert "```python\n" in ask("write a python function")
    assert "```python\n" in ask("コードを見せて")


@pytest.mark.parametrize("asked", ["やっほ", "物語を書いて", "2+2は?", "一覧をください"])
def test_japanese_is_answered_in_japanese(asked: str) -> None:
    assert all(is_japanese(paragraph) for paragraph in ask(asked).split("\n\n"))


@pytest.mark.parametrize("asked", ["hello", "a story", "what is 2 + 2", "why?"])
def test_every_answer_says_that_it_is_simulated(asked: str) -> None:
    assert "simulator" in ask(asked)


def test_a_long_answer_has_several_paragraphs() -> None:
    assert ask("a long answer please").count("\n\n") >= 4
    assert ask("詳しく教えて").count("\n\n") >= 4


def test_the_last_user_message_decides() -> None:
    history = [Message("user", "hello"), Message("assistant", "Hello!"), Message("user", "おはよう")]
    assert compose(history).startswith("おはよう")


def test_a_tool_result_is_taken_up() -> None:
    history = [Message("user", "weather?"), Message("assistant"), Message("tool", "18 °C, sunny")]
    assert "18 °C, sunny" in compose(history)


def test_the_same_question_gets_the_same_answer() -> None:
    assert ask("why?") == ask("why?")
    assert len({compose([Message("user", "why?")], variant) for variant in range(3)}) == 3


def test_a_long_question_is_quoted_shortened() -> None:
    assert opening("word " * 100).count("word") < 20
