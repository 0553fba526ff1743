"""Makes documents to learn from out of what write_text.py has written, and says how much it left out and why.

    python examples/sprite/clean_text.py TEXT_FOLDER

TEXT_FOLDER/text.txt and TEXT_FOLDER/heldout.txt (every fiftieth document) hold one document after the other,
a blank line after each; TEXT_FOLDER/figures.json says what was left out, and digest and size of both.
"""

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from prompts import words
from write_text import ends_sentence, read_written

FEWEST_WORDS, MOST_WORDS = 5, 90
# Mean of a token: below, the model is guessing, and it shows. Of a short text few tokens are sure.
LEAST_LOGPROB, LEAST_LOGPROB_ASKED = -1.75, -1.25
HELD_OUT_EVERY = 50
MOST_SHARED = 0.6  # of a text's sequences of four words, with one text that is kept already
REPLACED = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "-", "\u2013": "-"}
)
# What an assistant says around an answer: taken off its front, or reason enough to leave the text out.
PLEASANTRIES = (
    r"(?:that(?:'s| is)|what) (?:an? )?(?:\w+ )?(?:great|good|excellent|interesting|wonderful|lovely)"
    r"(?: (?:question|idea|point|choice|thing to ask))?",
    "great question",
    "good question",
    "sure(?: thing)?",
    "certainly",
    "of course",
    "absolutely",
    "hello",
    "hi(?: there)?",
    r"(?:i'd|i would) be (?:happy|glad) to help(?: you)?(?: with that)?",
    r"let me (?:think|explain|see)[^.!?]*",
    r"no (?:problem|worries)(?: at all)?",
    "you're welcome",
    r"i'm (?:so |really )?(?:sorry|glad|happy) to hear (?:that|about|you)[^.!?]*",
)
ASSISTANT = words(
    r"as an ai; an ai; ai (?:assistant|model); language model; chatbot; assist you; help you with; happy"
    r" to help; glad to help; here to (?:help|support); support you; you're going through; you're"
    r" welcome; recommend some; let me know; feel free; i don't have (?:feelings|personal|access|the"
    r" ability); i'm not able; i cannot; i can't (?:help|assist|provide|answer); i'm (?:just )?a"
    r" (?:computer|program|machine); what's on your mind; any inconvenience; sorry for your; here"
    r" (?:are|is) (?:some|a few|a list|the|an?); the following; smollm; hugging face; rewrite; my"
    r" (?:friend|dear); human species; the (?:text|sentence|passage|story|prompt); would you like"
    r" (?:me|to); can you (?:please|tell|provide|give); please (?:provide|let|tell|note); (?:any )?other"
    r" questions; in conclusion; in this example; covid; coronavirus; pandemic; suicid\w*; murder\w*;"
    r" kill\w*; rape\w*; porn\w*; sex\w*"
)
PLEASANTRY = re.compile(f"^(?:{'|'.join(PLEASANTRIES)})[.!,:]\\s+", re.IGNORECASE)
ASSISTANT_TALK = re.compile(rf"\b(?:{'|'.join(ASSISTANT)})\b", re.IGNORECASE)
MARKUP = re.compile(r"[*#_|<>\[\]{}\\`~^=@:;]|https?|www\.|\.\.\.|\(|\d", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?][\"']?(?=\s|$)")
CIRCLES = [  # "An umbrella is a kind of umbrella", "a hill is a hill", "aquatic and aquatic"
    re.compile(r"^(?:an?|the) (\w+) (?:is|are)\b[^.]*\b\1\b", re.IGNORECASE),
    re.compile(r"\b(\w{4,}) (?:is|are|means?) (?:an? |the )?\1\b", re.IGNORECASE),
    re.compile(r"\b(\w{3,}),? (?:and |or )?\1\b", re.IGNORECASE),
]
TOLD = {"story", "tale"}  # nobody in them says "I" but in quotation marks
QUOTATION = re.compile(r'"[^"]*"')
SPEAKER = re.compile(r"\b(?:I|me|my|we|us|our|you|your)\b")
WORD = re.compile(r"[A-Za-z']+")


def whole_sentences(text: str, *, ended: bool) -> str:
    """The text up to the end of its last whole sentence."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    if ended and ends_sentence(text):
        return text
    return text[: ends[-1]] if ends else ""


def plain(text: str) -> str:
    """Straight quotes, single spaces, one line, and nothing before the answer proper."""
    text = " ".join(text.translate(REPLACED).split())
    while match := PLEASANTRY.match(text):
        rest = text[match.end() :]
        text = rest[:1].upper() + rest[1:]
    return text


def sequences_of_four(text: str) -> list[tuple[str, ...]]:
    """The words of a text by fours, each four beginning a word later."""
    found = WORD.findall(text.lower())
    return list(zip(found, found[1:], found[2:], found[3:], strict=False))


def repeats(text: str) -> bool:
    """Whether it says too much twice: words in a row, a sentence's beginning, or a word by itself."""
    found = WORD.findall(text.lower())
    fours = Counter(sequences_of_four(text))
    threes = Counter(zip(found, found[1:], found[2:], strict=False))
    beginnings = Counter(
        tuple(WORD.findall(part.lower())[:2]) for part in SENTENCE_END.split(text) if part.strip()
    )
    return (
        any(count > 1 for count in fours.values())
        or sum(count - 1 for count in threes.values()) > 1
        or any(count > 2 for count in beginnings.values())
        or any(pattern.search(text) for pattern in CIRCLES)
    )


def fault(record: dict, text: str) -> str | None:
    """Why a text is left out, or None."""
    count = len(WORD.findall(text))
    if record["logprob"] < (LEAST_LOGPROB if record["frame"] == "{}" else LEAST_LOGPROB_ASKED):
        return "unsure"
    if MARKUP.search(record["text"]):
        return "markup, list or figures"
    if not text:
        return "no whole sentence"
    if count < FEWEST_WORDS:
        return "too short"
    if count > MOST_WORDS:
        return "too long"
    if not text.isascii():
        return "other characters"
    if ASSISTANT_TALK.search(text):
        return "assistant's talk"
    if text.count('"') % 2 or ('"' in text and '"' in record["frame"]):
        return "open quotation"
    if record["form"] in TOLD and SPEAKER.search(QUOTATION.sub("", text)):
        return "teller speaks of itself"
    return "repetition" if repeats(text) else None


def without_near_duplicates(texts: list[str]) -> list[int]:
    """Which texts do not say for the most part what one before them says.

    The groups of `conjure.lm.text.near_duplicates` are too large here: texts that begin alike are related to
    each other by way of short ones, and of a group only one text would be left.
    """
    kept, texts_with = [], defaultdict(list)
    for number, text in enumerate(texts):
        fours = set(sequences_of_four(text))
        shared = Counter(other for four in fours for other in texts_with[four])
        if max(shared.values(), default=0) < MOST_SHARED * len(fours):
            kept.append(number)
            for four in fours:
                texts_with[four].append(number)
    return kept


def read_documents(path: Path) -> list[str]:
    """The documents of a file that was made here."""
    return path.read_text("utf-8").strip().split("\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    records = read_written(arguments.folder)
    faults: Counter[str] = Counter()
    kept, texts = [], []
    for record in records:
        text = whole_sentences(plain(record["text"]), ended=record["ended"])
        reason = fault(record, text)
        if reason is None:
            kept.append(record)
            texts.append(text)
        else:
            faults[reason] += 1
    first = without_near_duplicates(texts)
    faults["near duplicate"] = len(texts) - len(first)
    documents = [kept[index]["frame"].replace("{}", texts[index]) for index in first]
    held_out = documents[::HELD_OUT_EVERY]
    learned = [text for number, text in enumerate(documents) if number % HELD_OUT_EVERY]
    figures: dict = {"written": len(records), "left out": dict(faults.most_common())}
    for name, part in (("text.txt", learned), ("heldout.txt", held_out)):
        content = "".join(f"{text}\n\n" for text in part).encode()
        (arguments.folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        figures[name] = {"documents": len(part), "bytes": len(content), "sha256": digest}
    (arguments.folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
