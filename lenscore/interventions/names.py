"""Names of what takes the place of a state; flags have them, so no library is loaded here."""

LENS_SUBSTITUTES = ("nearest", "nearest-k", "word", "other-patch", "random")
"""What a lens says: its best candidate, the mean of its k best, the input embedding of the best one's token; and
controls: the best candidate of another patch of the image, a random candidate."""
PLAIN_SUBSTITUTES = ("mean-state", "zero", "unchanged")
"""Controls without a lens: the mean state of the image's visual tokens at the layer, zeros, and the state itself, which
shows what rounding does."""
SUBSTITUTES = (*LENS_SUBSTITUTES, *PLAIN_SUBSTITUTES)
