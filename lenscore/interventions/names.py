"""Names of what takes the place of a state; flags have them, so no library is loaded here."""

LENS_SUBSTITUTES = ("nearest", "nearest-k", "word", "deviation", "other-patch", "other-deviation", "random")
"""What a lens says: its best candidate, the mean of its k best, the input embedding of the best one's token, the
mean state with what sets the best candidate apart from those of the image; and controls: nearest and deviation with
the best candidate of another patch of the image, a random candidate."""
PLAIN_SUBSTITUTES = ("mean-state", "zero", "unchanged")
"""Controls without a lens: the mean state of the image's visual tokens at the layer, zeros, and the state itself, which
shows what rounding does."""
SUBSTITUTES = (*LENS_SUBSTITUTES, *PLAIN_SUBSTITUTES)

TARGETS = ("patches", "objects", "surroundings", "border", "sinks", "background", "all")
"""What is changed: single patches, objects, the patches around each, those at the border of the image, visual tokens
with outlying norms, as many patches of the background as each of these four has (a control), all visual tokens."""
USUAL_TARGETS = ("patches", "objects", "all")
KNOCKOUT_FROM = ("answer", "later")
"""From where attention is blocked: where the answer is predicted, or from all tokens outside of the target, which are
the later ones in causal attention."""
ERASE, WRITE = "erase", "write"
DIRECTIONS = ("word", "other-word", "random", "other-patches")
"""Along what states are moved: the direction of the word, and controls, by as much: that of another word, a random one;
and the word's own direction at as many other patches."""
SAID, TRUTH, SAMPLED, EVERYWHERE = PLACES = ("said", "truth", "sampled", "all")
"""Where a word is erased or written, besides truth:WORD and a box; see `jobs.intervene_settings`."""


def place_of(edit: str, at: str) -> str:
    """Where a word is erased or written if the user says `at`, which may be "": patches that say it, or the sample."""
    return at or (SAID if edit == ERASE else SAMPLED)
