"""Sentences that are unrelated to scenes but use the same words in other senses.

Without them every word would have one meaning, and contextual embeddings would have no advantage.
"""

from __future__ import annotations

import random

_NAMES = (
    "anna", "ben", "clara", "david", "ella", "frank", "grace", "henry", "iris", "jack",
    "karen", "leo", "maria", "noah", "olga", "peter", "rosa", "sam", "tina", "victor",
)  # fmt: skip
_JOBS = ("teacher", "doctor", "farmer", "singer", "baker", "pilot", "nurse", "sailor", "painter", "judge")
_DAYS = ("monday", "tuesday", "friday", "sunday", "yesterday", "today", "tomorrow", "tonight")
_FOODS = ("bread", "soup", "cheese", "rice", "cake", "tea", "honey", "pasta", "salad", "butter")
_PLACES = (
    "market", "school", "park", "station", "office", "garden", "village", "harbour", "museum", "kitchen",
)  # fmt: skip
_MOODS = ("happy", "sad", "tired", "angry", "calm", "proud", "nervous", "quiet")

_TEMPLATES = (
    "{name} felt blue when the {place} closed {day}.",
    "the star of the show was {name}, a {mood} {job}.",
    "you must cross the road near the {place}, said {name}.",
    "{name} will ring the {job} {day}.",
    "the key to good {food} is patience, the {job} said.",
    "{name} won the cup and gave it to {other}.",
    "orange juice and {food} is all that {name} wants.",
    "{other} was green with envy when {name} became a {job}.",
    "with a heavy heart {name} left the {place} {day}.",
    "prices of {food} drop {day}, said the {job}.",
    "{name} was over the moon about the {place}.",
    "{name} would like to fish with {other} {day}.",
    "the {job} is {mood} because the {place} is closed.",
    "{name} has to square the bill with the {job}.",
    "{food} from the black market made {name} {mood}.",
    "the family tree of {name} has one {job} in it.",
    "{name} moved house {day} and is {mood}.",
    "the white lie of {name} made {other} {mood}.",
    "{name} was tickled pink to meet the {job}.",
    "turn right at the {place} and then left, said {name}.",
    "the top {job} of the {place} is {name}.",
    "it is a golden rule that {name} never eats {food}.",
    "{name} has a big question about {food} for the {job}.",
    "do not bolt the door of the {place}, {name}.",
    "the red team beat the blue team at the {place} {day}.",
    "brown {food} tastes better, the {job} told {name}.",
    "{name} has a wide circle of friends at the {place}.",
    "the box office of the {place} opens {day}.",
    "{name} is a rough diamond, said the {job}.",
    "plain {food} is fine for {name}, who is {mood}.",
    "the bottom line is that {name} sold the {place}.",
    "it is a grey area, the judge told {name}.",
    "{name} had to flag the problem {day}.",
    "{name} gave {other} a small hint about the {food}.",
    "in the middle of the night {name} called the {job}.",
    "that was solid work, {name}, said the {job}.",
    "{name} and {other} walked to the {place} {day}.",
    "the {job} bought {food} and {extra} at the {place}.",
    "why is {name} so {mood}? the {job} does not know.",
    "{name} showed a yellow card to {other} {day}.",
    "the purple prose of {name} made the {job} {mood}.",
    "shops mushroom around the {place}, said {name}.",
    "{name} put a wedge between {other} and the {job}.",
    "the large crowd at the {place} was {mood}.",
    "{name} and {other} pine for the {place}.",
    "time flew like an arrow, said {name} {day}.",
    "a medium well done is what {name} calls {food}.",
    "the spotted {food} went to the bin of the {place}.",
    "one plus one is two, the {job} told {name}.",
    "{name} worked in that field as a {job}.",
)


def unrelated_sentence(rng: random.Random) -> str:
    """Returns one sentence about people, places and food."""
    name, other = rng.sample(_NAMES, 2)
    food, extra = rng.sample(_FOODS, 2)
    return rng.choice(_TEMPLATES).format(
        name=name,
        other=other,
        food=food,
        extra=extra,
        job=rng.choice(_JOBS),
        day=rng.choice(_DAYS),
        place=rng.choice(_PLACES),
        mood=rng.choice(_MOODS),
    )
