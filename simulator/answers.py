"""What the simulator answers: the topic and the language are read off the question, the words are in phrases.

The same messages always get the same answer.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from zlib import crc32

from simulator.phrases import ENGLISH, JAPANESE, Phrases
from simulator.question import Message
from simulator.tokens import clusters, is_japanese

_ECHO = 60
_COUNT = 500

_SUM = re.compile(r"(?<![\d.])(\d{1,9})(?:\s*([+*\u00d7÷])\s*|\s+([-/])\s+)(\d{1,9})(?![\d.])")
_COUNT_TO = re.compile(r"\bcount\b.{0,24}?\bto (\d{1,9})|(\d{1,9})まで数え", re.IGNORECASE)
_LONG = re.compile(
    r"(?<!how )\b(long|detailed|in depth|essay|at length)\b|長い|長く|長め|長文|詳し|くわしく|たっぷり", re.IGNORECASE
)
_GREETING = re.compile(
    r"(やっほ|こんにち|こんばん|おはよ|もしもし|はじめまして|ハロー|ヤッホ"
    r"|(?:hello|hi|hey|hiya|howdy|yo|greetings|good (?:morning|afternoon|evening|day))\b)[^?]{0,16}$",
    re.IGNORECASE,
)
# The first that matches is the topic, so the particular ones come before the general.
_TOPICS = tuple(
    (topic, re.compile(pattern, re.IGNORECASE))
    for topic, pattern in (
        (
            "resume",
            r"\b(resum|reconnect|reload|disconnect|cursor|last-event-id)|再開|再接続|切断|途切れ|リロード|再読み?込み",
        ),
        (
            "translation",
            r"\btranslat|翻訳|訳して|(英語|日本語|フランス語)(に|で)|\b(in|into) (english|japanese|french|german)\b",
        ),
        (
            "code",
            r"\b(code|function|python|javascript|typescript|sql|regex|program|curl)\b|コード|プログラム|関数|パイソン",
        ),
        ("piropiro", r"piropiro|ピロピロ|ぴろぴろ"),
        (
            "identity",
            r"\b(who|what) are you\b|\byour name\b|\bwhich model\b|(あなた|君|きみ|お前)[はって]|何者|自己紹介|お名前",
        ),
        ("story", r"\b(story|tale|poem|haiku|novel)\b|物語|お話|おはなし|昔話|小説|俳句|詩を"),
        ("list", r"\b(list|ideas|bullet|bullets|tips|steps|reasons)\b|一覧|リスト|箇条書き|挙げて|アイデア"),
        ("thanks", r"\b(thanks|thank you|thx)\b|ありがと|どうも|感謝"),
    )
)
_OPERATIONS: dict[str, Callable[[int, int], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "\u00d7": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else float("nan"),
    "÷": lambda a, b: a / b if b else float("nan"),
}


def compose(messages: Sequence[Message], variant: int = 0) -> str:
    """The answer to the last message; `variant` is the index of the choice, for `n` above 1."""
    last = messages[-1] if messages else Message("user")
    asked = next((message.text for message in reversed(messages) if message.role == "user"), last.text)
    phrases = JAPANESE if is_japanese(asked) else ENGLISH
    if last.role == "tool":
        opening = phrases.tool.format(result=_echo(last.text))
    else:
        opening = _open(unicodedata.normalize("NFKC", asked).strip(), _echo(asked), phrases)
    seed = crc32(asked.encode("utf-8", "surrogatepass")) + variant
    note = phrases.notes[seed % len(phrases.notes)]
    middle = phrases.journey if _LONG.search(asked) else ()
    return "\n\n".join((opening, *middle, note))


def _open(asked: str, echo: str, phrases: Phrases) -> str:
    """The part of the answer that depends on the question."""
    if not asked:
        return phrases.silence
    if found := _SUM.search(asked):
        return phrases.arithmetic.format(result=_calculate(found))
    if found := _COUNT_TO.search(asked):
        goal = min(int(found[1] or found[2]), _COUNT)
        return phrases.comma.join(map(str, range(1, goal + 1))) + phrases.stop
    for topic, pattern in _TOPICS:
        if pattern.search(asked):
            return _on_topic(topic, asked, phrases).replace("{asked}", echo)
    if found := _GREETING.match(asked):
        return phrases.greeting.format(greeting=_greet(found[1].lower(), phrases))
    return phrases.default.format(asked=echo)


def _on_topic(topic: str, asked: str, phrases: Phrases) -> str:
    if topic != "translation":
        return phrases.topics[topic]
    for pattern, english, japanese in phrases.phrasebook:
        if re.search(pattern, asked, re.IGNORECASE):
            return phrases.topics["translation"].format(english=english, japanese=japanese)
    return phrases.topics["untranslated"]


def _greet(word: str, phrases: Phrases) -> str:
    return next((reply for start, reply in phrases.greetings.items() if word.startswith(start)), phrases.hello)


def _calculate(found: re.Match[str]) -> str:
    left, right, operator = int(found[1]), int(found[4]), found[2] or found[3]
    result = _OPERATIONS[operator](left, right)
    return f"{left} {operator} {right} = {result if isinstance(result, int) else format(result, '.12g')}"


def _echo(text: str) -> str:
    """`text` on one line, short enough to be quoted."""
    line = clusters(" ".join(text.split()))
    return "".join(line) if len(line) <= _ECHO else "".join(line[:_ECHO]).rstrip() + "…"
