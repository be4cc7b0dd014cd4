"""The concepts of the shapes world and their words.

Scenes are made of *concepts* (keys, for example ``"circle"``), texts of their *words*. The first word of a concept is
the usual one, the others are synonyms.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Noun:
    """Words for one kind of object; ``plural[i]`` is the plural of ``singular[i]``."""

    singular: tuple[str, ...]
    plural: tuple[str, ...]

    @property
    def words(self) -> frozenset[str]:
        """All words of the noun, with synonyms and plurals."""
        return frozenset(self.singular + self.plural)


@dataclass(frozen=True)
class Colour:
    """Words for one colour and its mean red, green, blue values (0..255)."""

    words: tuple[str, ...]
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Size:
    """Words for one size and the range (inclusive) of an object's side in pixels."""

    words: tuple[str, ...]
    smallest_side: int
    largest_side: int


NOUNS: dict[str, Noun] = {
    "circle": Noun(("circle", "disc"), ("circles", "discs")),
    "square": Noun(("square", "box"), ("squares", "boxes")),
    "triangle": Noun(("triangle", "wedge"), ("triangles", "wedges")),
    "star": Noun(("star",), ("stars",)),
    "heart": Noun(("heart",), ("hearts",)),
    "cross": Noun(("cross", "plus"), ("crosses", "pluses")),
    "ring": Noun(("ring", "hoop"), ("rings", "hoops")),
    "diamond": Noun(("diamond", "rhombus"), ("diamonds", "rhombuses")),
    "moon": Noun(("moon", "crescent"), ("moons", "crescents")),
    "arrow": Noun(("arrow", "pointer"), ("arrows", "pointers")),
    "hexagon": Noun(("hexagon",), ("hexagons",)),
    "drop": Noun(("drop", "droplet"), ("drops", "droplets")),
    "bolt": Noun(("bolt", "lightning"), ("bolts", "lightnings")),
    "house": Noun(("house", "cottage"), ("houses", "cottages")),
    "tree": Noun(("tree", "pine"), ("trees", "pines")),
    "fish": Noun(("fish", "trout"), ("fish", "trout")),
    "cup": Noun(("cup", "mug"), ("cups", "mugs")),
    "key": Noun(("key",), ("keys",)),
    "flag": Noun(("flag", "banner"), ("flags", "banners")),
    "mushroom": Noun(("mushroom", "toadstool"), ("mushrooms", "toadstools")),
}

COLOURS: dict[str, Colour] = {
    "red": Colour(("red", "crimson"), (220, 40, 40)),
    "orange": Colour(("orange", "amber"), (245, 140, 30)),
    "yellow": Colour(("yellow", "golden"), (245, 225, 60)),
    "green": Colour(("green", "emerald"), (40, 160, 60)),
    "cyan": Colour(("cyan", "turquoise"), (60, 215, 215)),
    "blue": Colour(("blue", "azure"), (40, 80, 220)),
    "purple": Colour(("purple", "violet"), (130, 40, 170)),
    "pink": Colour(("pink", "rosy"), (250, 150, 200)),
    "brown": Colour(("brown", "chestnut"), (130, 80, 40)),
    "white": Colour(("white", "snowy"), (245, 245, 245)),
    "black": Colour(("black", "inky"), (20, 20, 20)),
    "grey": Colour(("grey", "ashen"), (135, 135, 135)),
}

TEXTURES: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "banded"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "plaid"),
}

SIZES: dict[str, Size] = {
    "small": Size(("small", "tiny"), 23, 25),
    "medium": Size(("medium", "moderate"), 35, 37),
    "large": Size(("large", "big"), 47, 49),
}

ADJECTIVES: dict[str, tuple[str, ...]] = {
    **{concept: colour.words for concept, colour in COLOURS.items()},
    **TEXTURES,
    **{concept: size.words for concept, size in SIZES.items()},
}
"""The words of all colours, textures and sizes."""

BACKGROUND_WORDS: tuple[str, ...] = ("background", "backdrop", "field", "canvas")

# Thirds of the image, from the top and from the left.
VERTICAL_WORDS: tuple[tuple[str, ...], ...] = (("top", "upper"), ("middle", "central"), ("bottom", "lower"))
HORIZONTAL_WORDS: tuple[tuple[str, ...], ...] = (("left",), ("center",), ("right",))
CENTRE_WORDS: tuple[str, ...] = ("center", "middle")

NUMBER_WORDS: tuple[str, ...] = ("zero", "one", "two", "three", "four")
