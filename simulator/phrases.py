"""What the simulator says, in English and Japanese."""

from dataclasses import dataclass

# What is asked for (a pattern), in English, in Japanese.
_PHRASEBOOK = (
    (r"good morning|おはよう", "Good morning!", "おはようございます!"),
    (r"good (evening|night)|こんばん|おやすみ", "Good evening.", "こんばんは。"),
    (r"thank|ありがと", "Thank you very much.", "どうもありがとうございます。"),
    (r"i love you|愛して|好きです", "I love you.", "あなたが好きです。"),
    (r"hello|\bhi\b|こんにちは|やっほ", "Hello!", "こんにちは!"),
    (r"\bcat\b|猫|ねこ", "The cat is asleep on the keyboard.", "猫がキーボードの上で寝ています。"),
)


@dataclass(frozen=True, slots=True)
class Phrases:
    """One language's phrases; braces are filled in by answers."""

    hello: str
    greetings: dict[str, str]
    greeting: str
    silence: str
    arithmetic: str
    comma: str
    stop: str
    tool: str
    default: str
    topics: dict[str, str]
    phrasebook: tuple[tuple[str, str, str], ...]
    journey: tuple[str, ...]
    notes: tuple[str, ...]


_CODE = """```python
import httpx

body = {"messages": [{"role": "user", "content": "hello"}]}
headers: dict[str, str] = {}  # after a cut, send {"Last-Event-ID": the last id you saw}

with httpx.stream("POST", "http://127.0.0.1:8000/v1/chat/stream", json=body, headers=headers) as answer:
    for line in answer.iter_lines():
        if line.startswith("event: done"):
            break
        if line.startswith("data: "):
            print(line.removeprefix("data: "), end="", flush=True)
```"""

ENGLISH = Phrases(
    hello="Hello!",
    greetings={
        "good morning": "Good morning!",
        "good afternoon": "Good afternoon!",
        "good evening": "Good evening!",
        "hey": "Hey there!",
        "hi": "Hi!",
    },
    greeting="{greeting} 👋 Lovely to see you here. Ask me for a story, some code, a sum, or how resuming works.",
    silence="You have not said anything yet, and I am a good listener. Ask me something!",
    arithmetic="{result}. Sums are about the only thing I really know.",
    comma=", ",
    stop=".",
    tool="The tool says: “{result}”. A real model would now turn that into an answer; I am just glad that it arrived.",
    default=(
        "You asked: “{asked}”. A good question, and a real model would have a real answer to it. "
        "I only know a few things by heart: try a story, a list, some code, a sum, or ask me how resuming works."
    ),
    topics={
        "resume": (
            "Every event of the stream carries an id, and that id is a cursor. When a connection is lost, the client "
            "comes back with the last id it saw, in the Last-Event-ID header or as ?after=, and gets exactly what "
            "follows: nothing lost, nothing doubled.\n\n"
            "It can be any replica of the API, because none of them holds the answer. The answer is in a log in Redis; "
            "the API first replays what is stored there and then follows what is still being written."
        ),
        "translation": "English: {english}\nJapanese: {japanese}",
        "untranslated": (
            "“{asked}” is beyond my little phrasebook, I am afraid. I can do “good morning”, “thank you” and a cat; "
            "for the rest you will want a real model."
        ),
        "code": f"Here is a small client that prints an answer as it arrives:\n\n{_CODE}",
        "piropiro": (
            "Piropiro (ピロピロ, the sound of text arriving letter by letter) streams the answers of language models "
            "through a queue. An API takes your question and puts it in the queue; a worker takes it out, asks the "
            "model and appends every piece of the answer to a log; the API reads that log and streams it to you.\n\n"
            "So neither side has to know the other, each can be restarted or scaled alone, and you can leave in the "
            "middle of a sentence and come back for the rest."
        ),
        "identity": (
            "I am Piropiro's simulator: a small program that speaks the API of OpenAI and knows a handful of answers. "
            "I stand in for a language model in demos, tests and benchmarks."
        ),
        "story": (
            "Once there was a small letter that wanted to reach a screen.\n\n"
            "It was born in a worker's hands and laid at the end of a long log, just behind a comma. “Will anybody "
            "read me?” it asked. “Somebody always does,” said the comma, which had been waiting for a while.\n\n"
            "Then the line went dead. Whole words held their breath. But a log forgets nothing: when the reader came "
            "back, through another door, she said which letter she had seen last, and the next one stepped "
            "forward.\n\n"
            "“I thought I was lost,” it said. “You were only late,” said the comma. And the sentence went on."
        ),
        "list": (
            "Here are five things to try:\n\n"
            "1. Reload in the middle of an answer and watch it go on.\n"
            "2. Open the same chat in two windows.\n"
            "3. Stop the worker while I talk, and start it again.\n"
            "4. Run two API replicas and reconnect to the other one.\n"
            "5. Cancel me. I will not take it personally."
        ),
        "thanks": "You are welcome! It was a pleasure, one small delta at a time.",
    },
    phrasebook=_PHRASEBOOK,
    journey=(
        (
            "Since you asked for something longer, let me tell you how these words reach you. Your question came in "
            "as one "
            "HTTP request. The API checked it, gave it an id, and put it into a queue in Redis; then it was free "
            "for the "
            "next one. That is all it does with a question, which is why it can take so many."
        ),
        (
            "A worker picked the question up and asked the upstream, which is me. Every few milliseconds I send a "
            "piece of "
            "a word, and the worker appends it to the log of this chat. If that worker died now, another would "
            "notice that "
            "its lease has run out and take over, and the log would say where a new attempt begins."
        ),
        (
            "On the other side, your connection follows the log. It first reads what is already there, then waits for "
            "more. If it breaks, nothing happens to the answer: I go on talking, the log goes on growing, and whoever "
            "comes back with the id of the last piece gets the next one."
        ),
        (
            "At the end there is exactly one last entry, which says that all is said, or what went wrong. An answer "
            "that "
            "merely stops is never taken for a finished one."
        ),
    ),
    notes=(
        (
            "By the way: no API key is set, so this is Piropiro's simulator talking and not a real model. But the "
            "way is "
            "real: each piece of this text went from a worker through the queue to you. Reload the page or cut the "
            "connection, and it goes on exactly where it stopped."
        ),
        (
            "I am the simulator that answers as long as no API key is set. My words are canned, their journey is "
            "not: they "
            "come through the queue, piece by piece, and if you cut the connection now you can resume at this very "
            "word."
        ),
        (
            "This was the built-in simulator; set OPENAI_API_KEY and a real model answers instead. The queue, the "
            "log and "
            "the stream stay the same, so do try to reload in mid-sentence: nothing is lost and nothing comes twice."
        ),
    ),
)

JAPANESE = Phrases(
    hello="こんにちは!",
    greetings={
        "やっほ": "やっほー!",
        "ヤッホ": "やっほー!",
        "おはよ": "おはようございます!",
        "こんばん": "こんばんは!",
        "もしもし": "もしもし!",
        "はじめまして": "はじめまして!",
    },
    greeting="{greeting}👋 来てくれてうれしいです。物語、コード、計算、再開のしくみなど、気軽に聞いてみてください。",
    silence="まだ何も聞こえません。何でも話しかけてみてくださいね。",
    arithmetic="{result} です。計算だけは本当にできるんです。",
    comma="、",
    stop="。",
    tool="ツールの結果は「{result}」でした。本物のモデルなら、ここから答えをまとめるところです。",
    default=(
        "「{asked}」ですね。いい質問です。本物のモデルなら、ちゃんとした答えを返してくれるでしょう。"
        "わたしが知っているのはほんの少しだけ。物語、リスト、コード、計算、それから再開のしくみなら話せます。"
    ),
    topics={
        "resume": (
            "ストリームのイベントには一つずつ id が付いていて、それがカーソルになります。"
            "接続が切れたら、最後に受け取った id を "
            "Last-Event-ID ヘッダーか ?after= で送ってください。ちょうどその続きから届きます。"
            "抜けも重複もありません。\n\n"
            "つなぎ直す先は、どの API レプリカでもかまいません。答えは API ではなく Redis のログにあるからです。"
            "API はまず保存済みの分を読み直し、それから書き込み中の分を追いかけます。"
        ),
        "translation": "英語: {english}\n日本語: {japanese}",
        "untranslated": (
            "「{asked}」は、わたしの小さな単語帳には載っていませんでした。"
            "「おはよう」「ありがとう」と猫の話なら訳せます。"
            "それ以外は、本物のモデルにおまかせください。"
        ),
        "code": f"届いた答えをそのまま表示していく、小さなクライアントです。\n\n{_CODE}",
        "piropiro": (
            "ピロピロは、言語モデルの答えをキューに通してストリーミングするしくみです。"
            "名前は、文字が一つずつ届くときの音から来ています。"
            "API が質問をキューに入れ、ワーカーがそれを受け取ってモデルにたずね、"
            "答えを少しずつログに書き足します。"
            "API はそのログを読んで、あなたに届けます。\n\n"
            "だから片方だけを再起動したり増やしたりできますし、文の途中で席を立っても、続きから読めます。"
        ),
        "identity": (
            "わたしはピロピロのシミュレーターです。OpenAI と同じ API を話す小さなプログラムで、"
            "答えは少ししか知りません。"
            "デモやテストやベンチマークで、言語モデルの代役をしています。"
        ),
        "story": (
            "むかしむかし、画面に届きたいと願う、小さな文字がありました。\n\n"
            "文字はワーカーの手の中で生まれ、長いログのいちばん後ろ、読点のとなりにそっと置かれました。"
            "「だれか読んでくれるかな」とたずねると、先に待っていた読点が「きっと来るよ」と答えました。\n\n"
            "そのとき、ぷつりと線が切れました。言葉たちは息をひそめます。けれど、ログは何も忘れません。"
            "やがて別の扉から戻ってきた読み手が、最後に見た文字の名を告げると、その次の文字が一歩前に出ました。\n\n"
            "「もうだめかと思った」「少し遅れただけさ」。そうして、文はまた続いていきました。"
        ),
        "list": (
            "試してみてほしいことを五つ挙げます。\n\n"
            "1. 答えの途中でリロードして、続きが届くのを見る\n"
            "2. 同じチャットを二つのウィンドウで開く\n"
            "3. 話している途中でワーカーを止めて、また動かす\n"
            "4. API を二つ動かして、もう片方につなぎ直す\n"
            "5. 途中でキャンセルする (気にしませんよ)"
        ),
        "thanks": "どういたしまして!少しずつですが、お届けできてよかったです。",
    },
    phrasebook=_PHRASEBOOK,
    journey=(
        (
            "長めにということなので、この文字たちがどうやって届いているのかをお話しします。"
            "あなたの質問は、一つの HTTP リクエストとして届きました。"
            "API は中身を確かめ、番号を付けて、Redis のキューに入れます。API の仕事はそれだけなので、"
            "すぐに次の質問を受け取れます。"
        ),
        (
            "次に、ワーカーが質問を取り出して、上流のモデル、つまりわたしにたずねます。"
            "わたしが少しずつ返す言葉を、ワーカーはチャットのログに書き足していきます。"
            "もしここでワーカーが倒れても、別のワーカーが気づいて引き継ぎ、"
            "どこから新しい試みが始まったかもログに残ります。"
        ),
        (
            "一方、あなたの接続はそのログを追いかけています。まず保存済みの分を読み、それから続きを待ちます。"
            "接続が切れても、答えには何も起こりません。最後に受け取った id を持って戻れば、その次の一文字から届きます。"
        ),
        (
            "そして最後には、終わりを告げる記録が必ず一つだけ書かれます。途中で止まっただけの答えが、"
            "完成した答えとして扱われることはありません。"
        ),
    ),
    notes=(
        (
            "ちなみに、いまは API キーが設定されていないので、本物のモデルの代わりにシミュレーターがお答えしています。"
            "でも道のりは本物です。この文は少しずつワーカーからキューを通って届いています。"
            "リロードしても接続を切っても、ちょうど続きから再開します。"
        ),
        (
            "お話ししているのは、API キーがないときに答えるシミュレーターです。言葉は作り置きですが、"
            "キューを通る旅は本物。"
            "いま接続を切っても、この文字の続きから読めますよ。"
        ),
        (
            "ここまで、内蔵のシミュレーターがお届けしました。OPENAI_API_KEY を設定すると、本物のモデルが答えます。"
            "キューもログも配信も同じなので、ぜひ文の途中でリロードしてみてください。何も失われず、重複もしません。"
        ),
    ),
)
