"""Noun phrases, places and backgrounds: the parts of all texts about a scene."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lenscore.shapes.scenes import Scene, SceneObject
from lenscore.shapes.vocabulary import (
    ADJECTIVES,
    BACKGROUND_WORDS,
    CENTRE_WORDS,
    HORIZONTAL_WORDS,
    NOUNS,
    VERTICAL_WORDS,
)

_USUAL_WORD_CHANCE = 0.8


def pick_word(words: Sequence[str], rng: random.Random) -> str:
    """Returns the first word with a probability of 0.8, else one of its synonyms."""
    if len(words) == 1 or rng.random() < _USUAL_WORD_CHANCE:
        return words[0]
    return rng.choice(words[1:])


def adjective(concept: str, rng: random.Random) -> str:
    """Returns a word for a colour, texture or size."""
    return pick_word(ADJECTIVES[concept], rng)


def noun_word(noun: str, rng: random.Random, plural: bool = False) -> str:
    """Returns a word for a noun."""
    return pick_word(NOUNS[noun].plural if plural else NOUNS[noun].singular, rng)


def place(item: SceneObject, rng: random.Random) -> str:
    """Returns the place of an object, for example ``"top left"``."""
    if item.vertical_third == 1 and item.horizontal_third == 1:
        return rng.choice(CENTRE_WORDS)
    vertical = pick_word(VERTICAL_WORDS[item.vertical_third], rng)
    return f"{vertical} {pick_word(HORIZONTAL_WORDS[item.horizontal_third], rng)}"


def noun_phrase(item: SceneObject, rng: random.Random) -> str:
    """Returns a phrase for an object: always its colour and noun, often its size and texture."""
    adjectives = []
    if rng.random() < 0.6:
        adjectives.append(adjective(item.size, rng))
    if rng.random() < (0.15 if item.texture == "plain" else 0.85):
        adjectives.append(adjective(item.texture, rng))
    adjectives.append(adjective(item.colour, rng))
    if len(adjectives) > 1 and rng.random() < 0.1:
        adjectives[0], adjectives[1] = adjectives[1], adjectives[0]
    return " ".join([*adjectives, noun_word(item.noun, rng)])


def full_phrase(item: SceneObject, rng: random.Random) -> str:
    """Returns a phrase for an object with all its attributes."""
    size, texture = adjective(item.size, rng), adjective(item.texture, rng)
    return f"{size} {texture} {adjective(item.colour, rng)} {noun_word(item.noun, rng)}"


def background_phrase(scene: Scene, rng: random.Random) -> str:
    """Returns a phrase for the background, for example ``"on a red background"``."""
    preposition = rng.choice(("on", "against", "over"))
    word = rng.choice(("background", *BACKGROUND_WORDS))
    return f"{preposition} {with_article(f'{adjective(scene.background, rng)} {word}')}"


def with_article(phrase: str) -> str:
    """Returns the phrase after ``a`` or ``an``."""
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def enumerate_phrases(phrases: Sequence[str]) -> str:
    """Returns ``"x"``, ``"x and y"`` or ``"x, y and z"``."""
    if len(phrases) == 1:
        return phrases[0]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}"
