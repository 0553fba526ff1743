"""From the name of a model to the folder that holds it.

Main entry: `resolve_model`. A name is, in this order: a resource (what a caller's lookups know, such as
``runs/3``), an embedded model (``sprite``), one inside a package (``smollm2``), a local folder or GGUF
file, or a model on Hugging Face, ``name@revision`` if one revision is meant. Invariant: a model that is
already on this machine is found without the network.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from conjure.core.files import expand_user
from conjure.core.quoting import shell_words
from conjure.core.text import did_you_mean, error_text
from conjure.errors import CheckpointError, ModelError, NotFoundError, UsageError, option, out_of_memory
from conjure.lm.checkpoints.checkpoint_folder import (
    ADAPTER_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    LICENSE_FILES,
    PICKLE_FILES,
    WEIGHTS_FILE,
    has_tokenizer,
    read_index,
    read_json_object,
)
from conjure.lm.checkpoints.gguf.conversion import checkpoint_folder
from conjure.lm.checkpoints.gguf.detection import is_gguf
from conjure.lm.checkpoints.packaged_models import PACKAGED_MODELS, packaged_folder
from conjure.lm.checkpoints.weights_digest import SHORT, weights_digest
from conjure.lm.models.registry import known_families, read_model_config

Lookup = Callable[[str], Path | None]
"""Tells the folder or GGUF file a name means, or None for a name not its own; may raise `NotFoundError`."""

EMBEDDED_MODEL = "sprite"
COMES_WITH_CONJURE = ("embedded", "packaged")  # kinds of models that a version of conjure chooses

# Where the classic names live now; caches hold them under either.
_MOVED = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
_REVISION = re.compile(r"\w[\w./-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
# hf_xet, which transfers most files, tells them in words only, as Rust does: "… (os error 28)".
_DISK_WORDS = re.compile(
    "|".join(["No space left", "Disk quota exceeded", *(rf"os error {number}\b" for number in _DISK_ERRORS)])
)
_CONNECT_TIMEOUT_S = 5.0  # a network that drops packets must not look like a hang

# All that is ever taken from a hub model: never a pickle, and not the same weights in other formats.
_WANTED = [
    CONFIG_FILE,
    "generation_config.json",
    WEIGHTS_FILE,
    "model-*.safetensors",
    INDEX_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    # A model that is tuned from it passes its license on.
    "README.md",
    LICENSE_FILES,
]
# What other programs leave out: without the one a model has no chat template, without the other no license.
_CHAT_FILE, _CARD_FILE = "tokenizer_config.json", "README.md"
_WEIGHTS = frozenset({WEIGHTS_FILE, INDEX_FILE, *PICKLE_FILES})  # a model has one of them
# Snapshots whose missing files were asked for: a hub that does not answer is waited for once in a process.
_asked_to_complete: set[Path] = set()


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model was found.

    Attributes:
        name: As it was asked for.
        folder: The checkpoint folder.
        kind: ``embedded``, ``packaged``, ``folder``, ``gguf``, ``hub`` or ``resource``.
        revision: The commit of a hub model.
    """

    name: str
    folder: Path
    kind: str
    revision: str | None = None

    def __str__(self) -> str:
        """The name, and what it turned out to be."""
        if self.kind == "hub":
            return f"{self.name.partition('@')[0]} (Hugging Face, revision {(self.revision or '?')[:8]})"
        if self.kind in COMES_WITH_CONJURE:  # which one, for another version may have another of that name
            with suppress(CheckpointError):  # whoever loads it tells
                return f"{self.name} {self.sha256[:SHORT]} ({self.kind})"
        return f"{self.name} ({self.kind})"

    @property
    def sha256(self) -> str:
        """Of its weights, as `conjure.lm.checkpoints.weights_digest` has it.

        Raises:
            CheckpointError: They are missing or cannot be read.
        """
        return weights_digest(self.folder)


def resolve_model(
    name: str | Path, *, lookups: Iterable[Lookup] = (), fetch: bool = True, with_card: bool = False
) -> ModelSource:
    """Find the checkpoint folder a name means.

    Args:
        name: What the user wrote.
        lookups: Asked first, in turn.
        fetch: Download a hub model that is not cached; False only looks at this machine.
        with_card: Try to get the card of a cached hub model that lacks it, for whoever passes its license on.

    Raises:
        UsageError: The name cannot be one.
        NotFoundError: There is no such model, or it is not here and the network is not either.
        CheckpointError: A hub model without safetensors weights, or of another architecture; a GGUF file that
            is damaged or of an unknown kind.
    """
    text = str(name)
    if not text.strip():
        raise UsageError("the model's name is empty", hint=f"the embedded model is named {EMBEDDED_MODEL}")
    for lookup in lookups:
        found = lookup(text)
        if found is not None:
            return ModelSource(text, checkpoint_folder(found) if found.is_file() else found, "resource")
    if text == EMBEDDED_MODEL:
        return ModelSource(text, _embedded_folder(text), "embedded")
    if text in PACKAGED_MODELS:
        return _packaged(text)
    return _local(text) or _from_hub(text, fetch=fetch, with_card=with_card)


def models_here() -> list[ModelSource]:
    """Every model found on this machine by name alone: embedded, fetched, then Hugging Face's cache."""
    embedded = [
        ModelSource(path.parent.name, path.parent, "embedded")
        for path in sorted(_embedded_root().glob(f"*/{CONFIG_FILE}"))
    ]
    folders = {name: packaged_folder(name) for name in PACKAGED_MODELS}
    packaged = [
        ModelSource(name, folder, "packaged") for name, folder in folders.items() if folder is not None
    ]
    return [*embedded, *packaged, *sorted(_cached_models(), key=lambda source: source.name)]


def _cached_models() -> Iterator[ModelSource]:
    """Models of known kinds in Hugging Face's cache, each by its newest revision, loadable or not."""
    try:
        from huggingface_hub import CacheNotFound, scan_cache_dir
    except ModuleNotFoundError:  # as in conjure[generate]
        return
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in repositories:
        revisions = sorted(repository.revisions, key=lambda revision: revision.last_modified)
        if repository.repo_type != "model" or not revisions:
            continue
        folder = Path(revisions[-1].snapshot_path)
        with suppress(CheckpointError):
            if read_json_object(folder / CONFIG_FILE).get("model_type") in known_families():
                yield ModelSource(repository.repo_id, folder, "hub", revisions[-1].commit_hash)


def _embedded_root() -> Path:
    return Path(str(files("conjure"))) / "models"


def _embedded_folder(name: str) -> Path:
    folder = _embedded_root() / name
    if not (folder / CONFIG_FILE).exists():
        raise NotFoundError(
            f"this installation of conjure has no embedded model {name!r}", hint="reinstall conjure"
        )
    return folder


def _packaged(name: str) -> ModelSource:
    folder = packaged_folder(name)
    if folder is None:
        raise NotFoundError(
            f"model {name} ({PACKAGED_MODELS[name].description}) has not been fetched yet",
            fix=shell_words("conjure", "models", "fetch", name),
        )
    return ModelSource(name, folder, "packaged")


def _local(name: str) -> ModelSource | None:
    """A folder or GGUF file of this machine; None for what can only be a hub name."""
    path = expand_user(name)
    # os.path's answers where pathlib's raise: for names too long.
    if os.path.isfile(path):  # noqa: PTH113
        if is_gguf(path):
            return ModelSource(name, checkpoint_folder(path), "gguf")
        folder = f"{path.parent}/"
        raise UsageError(
            f"model {name} is a file, and not a GGUF file; a model is that or a folder",
            hint=f"its folder is a model: {folder}" if _holds_model(path.parent) else None,
        )
    if os.path.isdir(path):  # noqa: PTH112
        _refuse_adapter(name, path)
    hub_part = name.partition("@")[0]
    explicit = name.startswith((".", "/", "~")) or name.endswith("/") or hub_part.count("/") > 1
    if os.path.isdir(path) and (explicit or _holds_model(path)):  # noqa: PTH112
        return ModelSource(name, path, "folder")
    if explicit or name.endswith(".gguf"):
        kind = "file" if name.endswith(".gguf") else "folder"
        raise NotFoundError(f"model {kind} {name} does not exist")
    return None


def _refuse_adapter(name: str, folder: Path) -> None:
    """Refuse a folder that holds what an adapter changes of a model, and no model.

    Raises:
        UsageError: It is one.
    """
    if not (folder / ADAPTER_FILE).is_file() or any((folder / each).exists() for each in _WEIGHTS):
        return
    base = read_json_object(folder / ADAPTER_FILE).get("base_model_name_or_path")
    told = f"{name} is an adapter, not a model"
    if isinstance(base, str) and base:
        raise UsageError(told, fix=f"{option('model', base)} {option('adapter', name)}")
    raise UsageError(told, hint=f"give its base model and {option('adapter', name)}")


def _holds_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in (CONFIG_FILE, *_WEIGHTS))


def _from_hub(name: str, *, fetch: bool, with_card: bool) -> ModelSource:
    repository, revision = _parse_hub_name(name)
    candidates = [repository, *([_MOVED[repository]] if repository in _MOVED else [])]
    here = {each: folder for each in candidates if (folder := _cached(each, revision)) is not None}
    repository, cached = next(iter(here.items()), (repository, None))
    # A branch or tag that was named on purpose may have moved on, so it is looked up.
    settled = not revision or _COMMIT.fullmatch(revision) is not None
    usable = cached if settled and cached is not None and has_tokenizer(cached) else None
    is_whole = usable is not None and _is_whole(repository, usable, with_card=with_card)
    if cached is not None and (is_whole or not fetch):
        return ModelSource(name, cached, "hub", cached.name)
    if not fetch:
        raise NotFoundError(
            f"model {name!r} is not on this machine",
            hint=_suggestion(name),
            fix=None if _suggestion(name) else shell_words("conjure", "generate", "--model", name),
        )
    try:
        folder = _download(repository, usable.name if usable is not None else revision)
    except _Unreachable as error:
        if cached is None:
            raise _missing(name, str(error)) from error
        folder = cached
    except (NotFoundError, CheckpointError):
        if usable is None:
            raise
        folder = usable  # only what it can do without is missing
    _asked_to_complete.add(folder)
    return ModelSource(name, folder, "hub", folder.name)


def _is_whole(repository: str, folder: Path, *, with_card: bool) -> bool:
    """Whether what other programs leave out is there, or known not to exist, or was asked for already."""
    from huggingface_hub import try_to_load_from_cache

    names = (_CHAT_FILE, _CARD_FILE) if with_card else (_CHAT_FILE,)
    return folder in _asked_to_complete or all(
        try_to_load_from_cache(repository, name, revision=folder.name) is not None for name in names
    )


def _parse_hub_name(name: str) -> tuple[str, str | None]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, at, revision = name.partition("@")
    try:
        validate_repo_id(repository)
        sound = not at or (_REVISION.fullmatch(revision) is not None and ".." not in revision)
    except HFValidationError:
        sound = False
    if not sound:
        raise UsageError(
            f"{name!r} is neither a folder nor a model's name: those are letters, digits and -_. with at most"
            " one /, and may end in @revision",
            fix="conjure models",
        )
    return repository, revision or None


def _cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot in Hugging Face's cache, if its weights are all there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, CONFIG_FILE, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if _has_all_weights(folder) else None


def _has_all_weights(folder: Path) -> bool:
    if (folder / WEIGHTS_FILE).exists():
        return True
    try:
        return all((folder / place).exists() for place in read_index(folder / INDEX_FILE).values())
    except CheckpointError:
        return False


class _Unreachable(Exception):  # noqa: N818  # a state of the network, told onward as an error
    """The hub could not be asked."""


def _download(repository: str, revision: str | None) -> Path:
    """Fetch a model's checkpoint files, the small ones first; show the library's own progress."""
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    # The library's network errors have no common base of its own; this is its HTTP library's.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]  # pyright: ignore[reportAssignmentType]
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=_CONNECT_TIMEOUT_S)
        names = {file.rfilename for file in info.siblings or []}
        _check_files(repository, names)
        config = hf_hub_download(repository, CONFIG_FILE, revision=revision)
        read_model_config(read_json_object(Path(config)))  # before gigabytes of another architecture
        for absent in sorted({_CHAT_FILE, _CARD_FILE} - names):
            with suppress(errors.EntryNotFoundError):  # which the cache remembers
                hf_hub_download(repository, absent, revision=info.sha)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_WANTED))
    except errors.GatedRepoError as error:
        raise NotFoundError(
            f"model {repository!r} is gated: its terms must be accepted before it can be downloaded",
            hint=f"accept them on the model's page, then `hf auth login`, or name {EMBEDDED_MODEL}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise NotFoundError(f"model {repository!r} has no revision {revision!r} on Hugging Face") from error
    except errors.RepositoryNotFoundError as error:
        raise _unknown(repository) from error
    except ModelError as error:
        raise CheckpointError(f"model {repository!r} cannot be used: {error}") from error
    except (OSError, RuntimeError, http_error) as error:  # hf_xet raises RuntimeErrors
        if out_of_memory(error) is not None:
            raise
        reason = error_text(error, with_path=True).strip().partition("\n")[0]
        if getattr(error, "errno", None) in _DISK_ERRORS or _DISK_WORDS.search(str(error)):
            raise CheckpointError(f"model {repository!r} could not be stored: {reason}") from error
        raise _Unreachable(reason) from error


def _check_files(repository: str, names: set[str]) -> None:
    if ADAPTER_FILE in names and not names & _WEIGHTS:
        download = shell_words("hf", "download", repository, "--local-dir", "FOLDER")
        raise CheckpointError(
            f"{repository!r} on Hugging Face is an adapter, not a model",
            hint=f"{download}, then give its base model and {option('adapter', './FOLDER')}",
        )
    if CONFIG_FILE not in names:
        raise CheckpointError(f"{repository!r} on Hugging Face is not a model: it has no {CONFIG_FILE}")
    if WEIGHTS_FILE in names or INDEX_FILE in names:
        return
    if names & set(PICKLE_FILES):
        raise CheckpointError(
            f"model {repository!r} has its weights only as a pickle, which could run code when it is loaded",
            hint=f"hf download {repository} --local-dir FOLDER, then conjure models convert FOLDER",
        )
    raise CheckpointError(f"model {repository!r} contains no {WEIGHTS_FILE}")


def _unknown(repository: str) -> NotFoundError:
    return NotFoundError(
        f"there is no model {repository!r} on Hugging Face, or it is private",
        hint=_suggestion(repository),
        fix=None if _suggestion(repository) else "conjure models",
    )


def _missing(name: str, reason: str) -> NotFoundError:
    ways = f"connect to the network, name a local folder as ./FOLDER, or the embedded model, {EMBEDDED_MODEL}"
    guess = _suggestion(name)
    return NotFoundError(
        f"model {name!r} is not on this machine and Hugging Face cannot be reached ({reason})",
        hint=f"{f'{guess} Or ' if guess else ''}{ways}",
    )


def _suggestion(name: str) -> str | None:
    known = [EMBEDDED_MODEL, *PACKAGED_MODELS, *_MOVED]
    return None if name in known else did_you_mean(name, known)
