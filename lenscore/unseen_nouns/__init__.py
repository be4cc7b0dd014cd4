"""Nouns that a caption says and no patch does: hallucinations, as far as the lenses see."""
