"""The language of sentences, by py3langid (BSD): its model is part of the package, so nothing is downloaded."""

from __future__ import annotations

import importlib.util
from importlib import metadata

from storage_layouts.errors import InputError

PACKAGE = "py3langid"


class LanguageFilter:
    """Says of sentences whether they are in one language.

    Args:
        language: ISO 639-1 code, as in en.

    Raises:
        InputError: the package is missing, or does not know the language.

    """

    def __init__(self, language: str) -> None:
        require_language_package(language)
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.language = language
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        if language not in self._identifier.labels:
            known = len(self._identifier.labels)
            raise InputError(f"--language {language}: expected one of the {known} codes of {PACKAGE}, as in en, de, zh")

    def language_of(self, text: str) -> str:
        """The code of the language that is the most likely."""
        return str(self._identifier.classify(text)[0])


def require_language_package(language: str) -> None:
    """Raises InputError if a language is asked for and the package is not installed."""
    if language and importlib.util.find_spec(PACKAGE) is None:
        raise InputError(f"--language {language}: needs the package {PACKAGE}; pip install 'lenscore[language]'")


def language_package() -> str:
    """Name and version of the package, for run.json."""
    return f"{PACKAGE} {metadata.version(PACKAGE)}"
