"""Names of the sources of new sentences, and of what they hold; flags have them, so no library is loaded here."""

TEMPLATES = "templates"
CORPUS = "corpus"
GENERATED = "generated"
SOURCES = (TEMPLATES, CORPUS, GENERATED)

FOUND = "found"
OTHER_PATCH = "other-patch"
RANDOM_WORDS = "random-words"
RANDOM_SENTENCES = "random-sentences"
RANDOM_ROWS = "random-rows"
CONTROLS = (OTHER_PATCH, RANDOM_WORDS, RANDOM_SENTENCES, RANDOM_ROWS)
"""Sentences of found words with words of another image's patch; with random words of the store; random sentences of a
corpus, as many as of the found words; random ones with as many rows."""
OF_CORPUS = frozenset({CORPUS, RANDOM_SENTENCES, RANDOM_ROWS})
"""The sources and controls that need a corpus."""
