"""What a run is given beside its code: mounts resolved and pinned, local files kept, equal runs recognised.

Main entries: `resolve_mounts`, `locate`, `identity_of`. Invariant: a resolved mount's `source` goes on
meaning the same content: links are followed, uploads carry their version, local files are kept by digest.
"""

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from conjure.core.files import expand_user, real_path, sha256_file
from conjure.core.home import Home
from conjure.core.keyed_digest import keyed_digest
from conjure.core.quoting import shell_words
from conjure.core.text import error_text
from conjure.core.trees import clone_file
from conjure.core.units import format_size
from conjure.errors import ConjureError, MountError, NotFoundError, UsageError, option
from conjure.runs.artifacts import resource_paths
from conjure.runs.artifacts.team_transfer import bring_kept_file
from conjure.runs.code.snapshot import holds
from conjure.runs.database.base import Database
from conjure.runs.database.sqlite_connection import full_disk
from conjure.runs.environments.imported_code import digest_of_files
from conjure.runs.schema.record import CodeFacts, MountFacts
from conjure.runs.schema.resource import KEPT_FILES, Resource
from conjure.runs.schema.spec import CodeChoice, Mount, RunSpec

_LARGEST_FILE_BYTES = 1_000_000_000


def resolve_mounts(home: Home, store: Database, mounts: Iterable[Mount]) -> tuple[MountFacts, ...]:
    """Every mount with what it stands for; nothing is put anywhere yet.

    What a run that still goes on will have made is taken on trust: `active_sources` names such runs.

    Raises:
        NotFoundError: There is no such resource.
        UsageError: It cannot be mounted.
        ConflictError: A run that has ended saved only some files of it.
    """
    return tuple(
        MountFacts(mount.resource, mount.target, mount.read_only, _pin(home, store, mount))
        for mount in mounts
    )


def active_sources(store: Database, mounts: Iterable[MountFacts]) -> list[int]:
    """The runs among the sources of resolved mounts that have not ended, in order."""
    numbers = {Resource.of_source(mount.source).number for mount in mounts}
    return sorted(number for number in numbers if number is not None and _is_active(store, number))


def _is_active(store: Database, number: int) -> bool:
    try:
        return not store.facts(number).status.is_final
    except NotFoundError:
        return False


def _pin(home: Home, store: Database, mount: Mount) -> str:
    if mount.is_local_file:
        return keep_file(home, expand_user(mount.resource).absolute())
    if Resource.of_source(mount.resource).kind == KEPT_FILES:
        locate(home, mount.resource)
        return mount.resource
    try:
        number = resource_paths.parse(mount.resource, store.lookup_link).number
    except NotFoundError as error:
        if not os.path.exists(mount.resource):  # noqa: PTH110 - false, too, for what no filesystem can hold
            raise
        raise _local_instead(mount.resource, error) from error
    if number is None or not _is_active(store, number):
        resource_paths.resolve(home, mount.resource, store.lookup_link)
    return resource_paths.pin(home, mount.resource, store.lookup_link)


def _local_instead(name: str, error: NotFoundError) -> ConjureError:
    """What to say where a mount's resource is not there, and a local file or folder has its name."""
    file = f"./{name}"
    if os.path.isdir(file):  # noqa: PTH112 - as above
        return _folder_error(Path(file))
    return NotFoundError(f"{error.unspelled.message}; the local file is {file}", fix=option("mounts", file))


def _folder_error(folder: Path) -> UsageError:
    return UsageError(
        f"{folder} is a folder; upload a folder before mounting it",
        hint=f"then mount uploads/{folder.resolve().name}",
        fix=shell_words("conjure", "upload", str(folder)),
    )


def locate(home: Home, source: str) -> Path:
    """Where the source of a resolved mount lies.

    Raises:
        NotFoundError: It is no longer there.
        ConflictError: A run has saved only some files of it.
    """
    resource = Resource.of_source(source)
    if resource.kind != KEPT_FILES:
        return resource_paths.resolve(home, source, lambda _: None)
    path = home.root / source
    bring_kept_file(home, resource)
    if not path.is_file() or ".." in path.parts:
        raise NotFoundError(f"the file stored as {source} no longer exists")
    return path


def keep_file(home: Home, file: Path) -> str:
    """Keep a copy of a local file under its digest, and give the source that stands for it.

    Raises:
        NotFoundError: There is no such file.
        UsageError: It is a folder, or too large to be kept.
        MountError: It cannot be read, or there is no room for it.
    """
    if not file.exists():
        raise NotFoundError(f"there is no file {file}")
    if not file.is_file():
        raise _folder_error(file)
    size = file.stat().st_size
    if size > _LARGEST_FILE_BYTES:
        raise UsageError(
            f"{file} has {format_size(size)}; local files are stored with the run, up to"
            f" {format_size(_LARGEST_FILE_BYTES)}",
            hint=f"afterwards mount uploads/{file.resolve().name}",
            fix=shell_words("conjure", "upload", str(file)),
        )
    try:
        digest = sha256_file(file)
        if not _kept(home, digest, file.name).is_file():
            digest = _copy_and_digest(home, file)
    except OSError as error:
        why = str(full_disk(home)) if error.errno == errno.ENOSPC else error_text(error)
        raise MountError(
            f"{file} ({format_size(size)}) could not be stored for the run: {why}",
            hint="free space, for example with `conjure prune`" if error.errno == errno.ENOSPC else None,
        ) from error
    return str(Resource(KEPT_FILES, digest, None, (file.name,)))


def _kept(home: Home, digest: str, name: str) -> Path:
    return home.root / KEPT_FILES / digest / name


def _copy_and_digest(home: Home, file: Path) -> str:
    """Copy first, then digest the copy: the original may be changing meanwhile."""
    folder = home.root / KEPT_FILES
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{uuid4().hex}.part"
    try:
        clone_file(file.resolve(), partial, mode=0o444)
        digest = sha256_file(partial)
        kept = _kept(home, digest, file.name)
        kept.parent.mkdir(exist_ok=True)
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def identity_of(
    home: Home,
    spec: RunSpec,
    code: CodeFacts,
    environment: str,
    mounts: Iterable[MountFacts],
    imports: Iterable[Path] = (),
) -> str | None:
    """A digest that equal runs share: same code, environment, mounts, command, params and variables.

    It is of the true values, secrets included, and keyed, so that no secret can be found from it by trying.

    Args:
        spec: What was asked for.
        code: Its snapshot.
        environment: Digest of its environment.
        mounts: What was mounted.
        imports: Places outside the environment that the command may import from.

    Returns:
        None where no run can be called equal: what it may import is too much to look at.
    """
    root = _code_root(spec, code)
    imported = digest_of_files(place for place in imports if not _is_in_snapshot(home, code, root, place))
    if imported is None:
        return None
    asked = spec.to_dict(secrets=True)
    what = {
        "tree": code.tree,
        "subfolder": code.subfolder,
        "environment": environment,
        "mounts": sorted((mount.target, mount.source, mount.read_only) for mount in mounts),
        **{name: asked[name] for name in ("kind", "command", "params", "variables", "output", "no_output")},
        # Only where it is used, so that runs of versions without it are still recognised.
        **({"imported": imported} if imported else {}),
        **({"sandbox": True, "network": spec.network} if spec.sandbox else {}),
        **({"distributed": spec.distributed} if spec.distributed is not None else {}),
        **({"nodes": spec.nodes} if spec.nodes is not None else {}),
    }
    return keyed_digest(home, json.dumps(what, sort_keys=True).encode())


def _code_root(spec: RunSpec, code: CodeFacts) -> Path | None:
    """The folder of which the code is a snapshot, as it was then; None where the code is from elsewhere."""
    if spec.code != CodeChoice():
        return None
    folder = real_path(spec.folder)
    return folder.parents[code.subfolder.count("/")] if code.subfolder else folder


def _is_in_snapshot(home: Home, code: CodeFacts, root: Path | None, place: Path) -> bool:
    real = real_path(place)
    return root is not None and real.is_relative_to(root) and holds(home, code.tree, real.relative_to(root))
