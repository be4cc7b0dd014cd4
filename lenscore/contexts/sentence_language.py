"""The language of sentences, by py3langid (BSD): its model is part of the package, so nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
from importlib import metadata
from typing import Any

from storage_layouts.errors import InputError

PACKAGE = "py3langid"


class LanguageFilter:
    """Says of sentences whether they are in one language.

    Args:
        language: ISO 639-1 code, as in en.

    Raises:
        InputError: as `require_language`.

    """

    def __init__(self, language: str) -> None:
        require_language(language)
        self.language = language
        self._identifier = _identifier()

    def language_of(self, text: str) -> str:
        """The code of the language that is the most likely."""
        return str(self._identifier.classify(text)[0])


def require_language(language: str) -> None:
    """Raises InputError if a language is asked for and the package is not installed, or does not know it."""
    if not language:
        return
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(f"--language {language}: needs the package {PACKAGE}; pip install 'lenscore[language]'")
    known = _identifier().labels
    if language not in known:
        raise InputError(
            f"--language {language}: expected one of the {len(known)} codes of {PACKAGE}, as in en, de, zh"
        )


@functools.cache  # its model takes a second to load
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def language_package() -> str:
    """Name and version of the package, for run.json."""
    return f"{PACKAGE} {metadata.version(PACKAGE)}"
