"""The reply of a judge, and how it is read. Words that are not candidates are ignored and counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pydantic

from lenscore.readings.words import folded


class Reply(pydantic.BaseModel):
    """The exact JSON that a judge must send. A patch is interpretable if any list is not empty.

    ``concrete_words`` name what is seen in the box, ``abstract_words`` what it expresses, ``global_words`` what
    the image shows elsewhere. The reasoning comes first, so that a model thinks before it decides.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    reasoning: str
    concrete_words: list[str]
    abstract_words: list[str]
    global_words: list[str]


_TAG = r"(?:think|thinking|thought|reasoning)[>\]▷]"
_MARKS = re.compile(
    rf"(?P<begins>[<\[◁]{_TAG})|(?P<ends>[<\[◁]/{_TAG})|"
    r'(?P<reply>\{\s*"(?:' + "|".join(Reply.model_fields) + r')"\s*:)',
    re.IGNORECASE,
)
"""Where reasoning begins and ends, and where a reply may begin."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ReadReply:
    """A reply in terms of the candidates.

    Attributes:
        outcome: "yes" if a list holds a candidate, "no" if none does, "unparsable" if the text is not a `Reply`.
        concrete, abstract, global_: the candidates in each list, spelled as in the question, each once.
        dropped: words of the lists that are not candidates.

    """

    outcome: str
    concrete: tuple[str, ...] = ()
    abstract: tuple[str, ...] = ()
    global_: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def fitting(self) -> tuple[str, ...]:
        """The candidates in any list, each once."""
        return tuple(dict.fromkeys(self.concrete + self.abstract + self.global_))


def read_reply(text: str, candidates: Sequence[str]) -> ReadReply:
    """Read a judge's text. Never raises: a text that holds no reply, or several, is an outcome.

    The reply may be surrounded by prose, a Markdown code fence, or reasoning between tags such as <think>. A word
    matches a candidate if they are equal after removing differences of case, spaces, the encoding of accents and
    surrounding quotation marks, and then also of the square brackets that mark the word of a phrase.
    """
    reply = _reply_in(text)
    if reply is None:
        return ReadReply("unparsable")
    known = {unmarked(word): word for word in reversed(candidates) if unmarked(word)}
    known |= {folded(word): word for word in reversed(candidates)}
    dropped: list[str] = []

    def among(words: Iterable[str]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for word in words:
            candidate = (
                known.get(folded(word)) or known.get(folded(word.strip("\"'“”‘’` "))) or known.get(unmarked(word))
            )
            if candidate is None:
                dropped.append(word)
            else:
                found[candidate] = None
        return tuple(found)

    lists = among(reply.concrete_words), among(reply.abstract_words), among(reply.global_words)
    return ReadReply("yes" if any(lists) else "no", *lists, tuple(dropped))


def _reply_in(text: str) -> Reply | None:
    """The one `Reply` in a text; None if there is none, or more than one.

    Reasoning between tags before the answer may hold drafts; those are not replies.
    """
    try:
        return Reply.model_validate_json(text)
    except ValueError:
        pass
    found: list[Reply] = []
    place, thinks = 0, False
    while mark := _MARKS.search(text, place):
        place = mark.end()
        if mark["ends"]:
            found, thinks = [], False  # also where the tag before it was part of the prompt
        elif mark["begins"]:
            thinks = True
        else:
            try:
                content, place = _DECODER.raw_decode(text, mark.start())
                found += [] if thinks else [Reply.model_validate(content)]
            except (ValueError, RecursionError):
                continue
    return found[0] if len(found) == 1 else None


def unmarked(word: str) -> str:
    """`folded`, and without the square brackets that mark the word of a phrase."""
    return folded(word.replace("[", "").replace("]", ""))
