"""What a judge replies, and how a reply is read: words that were not asked about count for nothing, but are counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pydantic

from lenscore.readings.words import folded


class Reply(pydantic.BaseModel):
    """The JSON that a judge must send, no more and no less. Interpretable means: any list is not empty.

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
"""Where a model begins and ends to think aloud, and where a reply may begin."""
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ReadReply:
    """A reply in terms of the candidates.

    Attributes:
        outcome: "yes" if a candidate stands in a list, "no" if none does, "unparsable" if the text is no `Reply`.
        concrete, abstract, global_: the candidates in each list, spelled as they were asked, each once.
        dropped: words of the lists that are no candidates.

    """

    outcome: str
    concrete: tuple[str, ...] = ()
    abstract: tuple[str, ...] = ()
    global_: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def fitting(self) -> tuple[str, ...]:
        """The candidates that stand in any list, each once."""
        return tuple(dict.fromkeys(self.concrete + self.abstract + self.global_))


def read_reply(text: str, candidates: Sequence[str]) -> ReadReply:
    """Read a judge's text. Never raises: a text that holds no reply, or several, is an outcome.

    Before and behind the reply may stand prose, a Markdown code fence, or what the model thinks aloud between tags
    such as <think>. A word stands for a candidate if both are equal but for case, spaces, the encoding of accents and
    surrounding quotation marks, or else but for the square brackets that mark the word of a phrase.
    """
    reply = _reply_in(text)
    if reply is None:
        return ReadReply("unparsable")
    known = {unmarked(word): word for word in reversed(candidates) if unmarked(word)}
    known = known | {folded(word): word for word in reversed(candidates)}
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
    """The one `Reply` of a text, whatever stands around it; None if there is none, or more than one.

    What a model thinks aloud before its answer, between tags, may hold drafts; those are no replies.
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
    """The same, also without square brackets, which mark the word of a phrase."""
    return folded(word.replace("[", "").replace("]", ""))
