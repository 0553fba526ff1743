"""Which weights a model has, in one SHA-256: what tells two models of one name apart.

Main entry: `weights_digest`. Invariant: equal digests mean equal weights, whatever they are called and
wherever they lie; a large file that is unchanged since its digest was taken is not read again.
"""

import re
from contextlib import suppress
from pathlib import Path

from conjure.core.files import sha256_bytes, sha256_file, write_atomically
from conjure.core.home import Home
from conjure.core.text import error_text
from conjure.errors import CheckpointError
from conjure.lm.checkpoints.checkpoint_folder import ORIGIN_FILE, read_json_object, weight_files

SHORT = 8  # digits that tell apart the few models of one name
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEMBERED_FROM_BYTES = 1 << 22  # smaller files are read in less time than a note of their digest is found


def weights_digest(folder: Path) -> str:
    """The SHA-256 of a checkpoint's weights: of their file, or of the digests of several.

    Of a folder that conjure made from a GGUF file it is that file's.

    Raises:
        CheckpointError: The weights are missing or cannot be read.
    """
    converted = _converted_file(folder)
    if converted is not None:
        return converted
    digests = [(name, _file_digest(folder / name)) for name in weight_files(folder)]
    if len(digests) == 1:
        return digests[0][1]
    return sha256_bytes("".join(f"{digest}  {name}\n" for name, digest in digests).encode())


def remembered_digest(path: Path) -> str:
    """A file's SHA-256, remembered in the home, if there is one, while its size, time and place are the same.

    Raises:
        CheckpointError: It cannot be read.
    """
    home = Home.from_environment()
    try:
        facts = f"{path.resolve()} {_identity(path)}"
        note = home.models / "digests" / sha256_bytes(facts.encode(errors="surrogateescape"))
        with suppress(OSError, UnicodeDecodeError):
            if _SHA256.fullmatch(known := note.read_text("ascii")):
                return known
        digest = sha256_file(path)
        unchanged = facts == f"{path.resolve()} {_identity(path)}"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
    if unchanged and home.root.is_dir():
        with suppress(OSError):  # a home that is full or read-only: it is read again next time
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, digest)
    return digest


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _file_digest(path: Path) -> str:
    target = path.resolve()
    # Hugging Face's cache names a large file by its SHA-256, and links to it from the model's folder.
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    try:
        if path.stat().st_size < _REMEMBERED_FROM_BYTES:
            return sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error_text(error)}") from error
    return remembered_digest(path)


def _converted_file(folder: Path) -> str | None:
    """The digest of the GGUF file that conjure made a folder from; None of other folders, copies included."""
    try:
        digest = read_json_object(folder / ORIGIN_FILE).get("sha256")
    except CheckpointError:
        return None
    return digest if isinstance(digest, str) and digest == folder.resolve().name else None
