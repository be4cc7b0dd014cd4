"""Where a model comes from, a folder or the Hugging Face Hub, and why it cannot be loaded from there."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from storage_layouts.errors import InputError, first_line

_EXPECTED = "expected a folder with config.json, or a Hub name"
HUB_STORE = "hf:"
"""What a store on the Hub is named by; models of the Hub have no such prefix."""
_CHECKPOINT = "expected the checkpoint that it was made from (config.json and safetensors): its folder or Hub name"


def require_source(name: str | os.PathLike[str], revision: str | None = None, flag: str = "--model") -> None:
    """Raises InputError for a file or folder that is not a model, and for a revision of a folder.

    `flag` is the command-line flag that named the model. For a Hub name, see `offline_if_unreachable`.
    """
    path = Path(name)
    if path.is_dir():
        if revision:
            raise InputError(f"--revision {revision}: {flag} {name} is a folder; only models of the Hub have revisions")
        if not (path / "config.json").exists():
            if gguf := sorted(path.glob("*.gguf")):
                raise InputError(f"{flag} {name}: a folder of GGUF files ({gguf[0].name}); {_CHECKPOINT}")
            raise InputError(f"{flag} {name}: a folder without config.json; {_EXPECTED}")
    elif path.exists():
        found = f"a GGUF file; {_CHECKPOINT}" if path.suffix.lower() == ".gguf" else f"a file; {_EXPECTED}"
        raise InputError(f"{flag} {name}: {found}")
    elif path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2:
        raise InputError(f"{flag} {name}: no such model folder; {_EXPECTED}")
    else:
        offline_if_unreachable()


def hub_repository(name: str | os.PathLike[str], flag: str = "--store") -> tuple[str, str | None] | None:
    """Repository and revision of a store that is named hf:REPO[@REVISION]; None for a folder.

    Raises InputError for another form. `flag` is the command-line flag that named it.
    """
    text = os.fspath(name)
    if not text.startswith(HUB_STORE) or os.path.exists(text):  # noqa: PTH110 - Path's refuses long names
        return None
    repository, _, revision = text.removeprefix(HUB_STORE).partition("@")
    if repository.count("/") > 1 or not repository or "" in repository.split("/") or text.endswith("@"):
        raise InputError(f"{flag} {text}: expected hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    return repository, revision or None


def absolute_model(name: str | os.PathLike[str]) -> str:
    """A model folder as an absolute path; a Hub name unchanged."""
    return str(Path(name).resolve()) if Path(name).is_dir() else str(name)


def model_folders(*names: str) -> list[Path] | None:
    """The folders of models; None if one of them is not on this machine but on the Hub."""
    return [Path(name) for name in names] if all(Path(name).is_dir() for name in names) else None


def offline_if_unreachable() -> None:
    """Contact the Hub once; if it does not answer, log a warning and use only downloaded files in this process."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and (reason := _unreachable()):
        constants.HF_HUB_OFFLINE = True  # otherwise every file would wait for the Hub, with retries
        logging.getLogger("lenscore").warning(
            "the Hub (%s) cannot be reached (%s): only files that were downloaded before are used",
            constants.ENDPOINT,
            reason,
        )


def why_not_loaded(name: str | os.PathLike[str], revision: str | None, error: BaseException) -> str:
    """The reason why the configuration of a model that passed `require_source` could not be loaded."""
    from huggingface_hub import constants, errors

    if Path(name).is_dir():
        return f"its config.json cannot be used: {first_line(error)}"
    for cause in _chain(error):
        if isinstance(cause, errors.GatedRepoError):
            return "access on the Hub requires that you accept its terms; accept them there, then: hf auth login"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"it has no revision {revision!r} on the Hub; expected a branch, a tag or a commit"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return "no such model folder, and no such model on the Hub (for a private one: hf auth login)"
        if isinstance(cause, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
            why = f"cannot be reached ({reason})" if (reason := _unreachable()) else "is not contacted (HF_HUB_OFFLINE)"
            at = f" at revision {revision}" if revision else ""
            return f"no such model folder, not downloaded before{at}, and the Hub {why}"
    if isinstance(error, ValueError) and downloaded_commit(name, revision) is None:
        return f"its repository on the Hub has no config.json; {_CHECKPOINT}"
    return f"its configuration cannot be loaded ({first_line(error)}); {_EXPECTED}"


def downloaded_commit(name: str | os.PathLike[str], revision: str | None = None) -> str | None:
    """The commit of the downloaded configuration of a Hub model; None for a model in a folder."""
    if Path(name).is_dir():
        return None
    import huggingface_hub

    file = huggingface_hub.try_to_load_from_cache(str(name), "config.json", revision=revision or None)
    return Path(file).parent.name if isinstance(file, str) else None


@functools.cache
def _unreachable() -> str:
    """Why the Hub does not answer; "" if it does, or in offline mode."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import get_session

    session = get_session()
    try:
        session.head(constants.ENDPOINT, timeout=5)
    except errors.OfflineModeIsEnabled:
        return ""
    except Exception as error:  # whatever sockets, TLS, proxies and the HTTP library raise
        return first_line(error)
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
