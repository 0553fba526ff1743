"""An object store as obstore reaches it: S3 and what speaks its protocol, Google Cloud, Azure, a folder.

Main entries: `open_objects`, `check_address`. Invariant: no exception of obstore's leaves it, and no message
holds a key; what fails for the moment is tried again, after pauses that grow and differ.
"""

import configparser
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from conjure.core.files import expand_user
from conjure.core.text import error_text
from conjure.errors import UsageError, option
from conjure.runs.objects.base import MissingObjectError, ObjectsError

_Result = TypeVar("_Result")
_FORMS = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX?account=NAME or file:///FOLDER"
# What an address may say beside the bucket; nothing secret, for it is shown and written down.
_SETTINGS = {
    "s3": {"endpoint": "aws_endpoint", "region": "aws_region"},
    "gs": {},
    "az": {"account": "azure_storage_account_name", "endpoint": "azure_storage_endpoint"},
    "file": {},
}
_TRIES = 4
_FIRST_PAUSE_S = 0.2
_CONNECT_TIMEOUT = "5s"
_READ_TIMEOUT = "60s"  # without any byte of an answer
_TIMEOUT = "1h"  # of a whole answer, which may be a file of many gigabytes
_PARTS_AT_ONCE = 6  # of a file: more of them would each be slow where the network is
_PIECE_BYTES = 1 << 20
_PART_BYTES = 1 << 23
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where a machine in a cloud would get keys: only who has found none in any other place asks there.
_MACHINES_KEYS = ("//169.254.169.254/", "//metadata.google.internal/")
_AZURE_CLI = "'az account get-access-token' command failed"
_HOW_TO_GIVE_KEYS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use ~/.aws/credentials",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the file with a service account's key",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
# Variables that name a file with authorities to trust: for all that is reached over TLS, and for a store.
_BUNDLE = "SSL_CERT_FILE"
_PEM = b"-----BEGIN CERTIFICATE-----"
_OWN_BUNDLES = {"s3": "AWS_CA_BUNDLE"}
# Names that can stand in a request as they are.
_BUCKET = re.compile(r"[A-Za-z0-9._:-]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_STORES_NAME = re.compile(r"^Generic \w+ error: ")
_REQUEST = re.compile(r"Error performing \w+ \S+ in \S+(?:, after [^-]*)? ?- ")
_CAUSE = re.compile(r'(?:message|error): "([^"\n]+)"')  # what the system says of a connection
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_HIDDEN = re.compile(
    r"(?i)((?:signature|credential|x-amz-[a-z-]+|sig|secret|token|password|authorization)[=:]\s*)[^&\s\"']+"
)


class RemoteObjects:
    """The objects below one address (see `base.ObjectStore`).

    Args:
        address: Where it is.
        store: obstore's own.
        tries: How often what fails for the moment is tried.
    """

    def __init__(self, address: str, store: Any, *, tries: int = _TRIES) -> None:
        self.address = address
        self.store = store
        self._tries = tries

    def put(self, name: str, content: bytes) -> None:
        """Write an object, over one of that name."""
        self._again(lambda: obstore.put(self.store, name, content))

    def put_file(self, name: str, path: Path) -> None:
        """Write a file as an object, in parts where it is large."""
        self._again(
            lambda: obstore.put(
                self.store, name, path, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        )

    def get(self, name: str) -> bytes:
        """All of an object."""
        return self._again(lambda: bytes(obstore.get(self.store, name).bytes()))

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Some bytes of an object."""
        found = self._again(
            lambda: bytes(obstore.get_range(self.store, name, start=start, end=start + length))
        )
        if len(found) != length:
            raise ObjectsError(
                f"{self.address}: {name} is shorter than expected: {length} bytes at offset {start} cannot be"
                " read"
            )
        return found

    def pieces(self, name: str) -> Iterator[bytes]:
        """All of an object, piece by piece."""
        result = self._again(lambda: obstore.get(self.store, name))
        size, done = result.meta["size"], 0
        with suppress(BaseError, OSError):  # broken off: the rest is asked for
            for piece in result.stream(min_chunk_size=_PIECE_BYTES):
                done += len(piece)
                yield bytes(piece)
        while done < size:
            length = min(_PART_BYTES, size - done)
            yield self.get_range(name, done, length)
            done += length

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for name in names:
            try:
                self._again(lambda name=name: obstore.delete(self.store, name))
            except MissingObjectError:
                continue

    def names(self, prefix: str) -> Iterator[str]:
        """The names of the objects below a prefix."""
        try:
            for found in obstore.list(self.store, prefix=prefix):
                yield from (each["path"] for each in found)
        except (BaseError, OSError) as error:
            raise self._translated(error) from error

    def _again(self, act: Callable[[], _Result]) -> _Result:
        """Do it; again where it may help."""
        for attempt in range(self._tries):
            try:
                return act()
            except (NotFoundError, PermissionDeniedError, UnauthenticatedError, FileNotFoundError) as error:
                raise self._translated(error) from error
            except (BaseError, OSError) as error:
                if attempt == self._tries - 1:
                    raise self._translated(error) from error
            time.sleep(_FIRST_PAUSE_S * 2**attempt * (0.5 + random.random()))
        raise AssertionError("unreachable")

    def _translated(self, error: Exception) -> ObjectsError:
        text = _HIDDEN.sub(r"\1***", str(error))
        if any(word in text for word in _NO_BUCKET):
            return ObjectsError(
                f"{self.address} cannot be used: there is no such {_container_word(self.address)}",
                hint="create it with the store's own tools",
            )
        if isinstance(error, NotFoundError | FileNotFoundError):
            return MissingObjectError(f"{self.address}: there is no such object: {_shortened(text)}")
        if any(word in text for word in _SKEWED):
            return ObjectsError(
                f"{self.address} refuses requests because this machine's clock differs from the store's",
                hint="set the clock, for example with an NTP client",
            )
        how = _HOW_TO_GIVE_KEYS.get(urlsplit(self.address).scheme)
        if any(place in text for place in _MACHINES_KEYS):
            return ObjectsError(f"{self.address} cannot be used: no credentials were found", hint=how)
        if _AZURE_CLI in text:
            return ObjectsError(f"{self.address} cannot be used: {_shortened(text)}", fix="az login")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "Forbidden" in text:
            return ObjectsError(f"{self.address} refuses these credentials: {_shortened(text)}", hint=how)
        if "InvalidCertificate" in text:
            return self._certificate_error(text)
        return ObjectsError(
            f"{self.address} cannot be reached: {_shortened(text)}",
            hint="check the address, or try again later",
        )

    def _certificate_error(self, text: str) -> ObjectsError:
        """Why the certificate that the store shows is not accepted."""
        if "NotValidForName" in text:
            return ObjectsError(
                f"{self.address} cannot be used: its TLS certificate is for another host name",
                hint="write the endpoint with a name that is in the certificate",
            )
        if "Expired" in text:
            return ObjectsError(f"{self.address} cannot be used: its TLS certificate has expired")
        variable = " or ".join(filter(None, (_OWN_BUNDLES.get(urlsplit(self.address).scheme), _BUNDLE)))
        return ObjectsError(
            f"{self.address} cannot be used: its TLS certificate is not trusted",
            hint=f"set {variable} to the file with the certificate of the authority that signed it",
        )


def _container_word(address: str) -> str:
    """What a store calls the first part of its addresses."""
    return "container" if address.startswith("az:") else "bucket"


def _shortened(text: str) -> str:
    """The first sentence of what obstore says, and the store's own word for it, without how errors nest."""
    line = _STORES_NAME.sub("", text.strip().partition("\n")[0]).partition("<?xml")[0]
    line = _REQUEST.sub("", line)
    cause = _CAUSE.search(text)
    if cause is not None:
        line = cause[1]
    line = line.rstrip(": \ufeff")
    code = _CODE.search(text)
    return (line if len(line) <= 300 else f"{line[:300]} …") + (f" ({code[1]})" if code is not None else "")


def check_address(address: str) -> None:
    """Refuse what is no address of an object store, or has a secret in it.

    Raises:
        UsageError: It is so.
    """
    parts = _split(address)
    if (
        parts is None
        or parts.scheme not in _SETTINGS
        or (parts.scheme == "file" and not parts.path.startswith("/"))
    ):
        raise UsageError(
            f"{option('objects')} {_without_secrets(address)!r} is not an address of an object store:"
            f" write {_FORMS}"
        )
    if parts.scheme == "file" and parts.netloc:
        raise UsageError(f"{option('objects')} {address!r} names a host: write file:///FOLDER")
    if parts.scheme != "file" and not parts.netloc:
        raise UsageError(
            f"{option('objects')} {address!r} names no {_container_word(address)}: write {_FORMS}"
        )
    if "@" in parts.netloc:
        raise UsageError(
            f"{option('objects')} {_without_secrets(address)!r} has a key in it, which every process list"
            " would show",
            hint=_HOW_TO_GIVE_KEYS.get(parts.scheme),
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise UsageError(
            f"{option('objects')} {address!r}: {parts.netloc!r} cannot be the name of a"
            f" {_container_word(address)}"
        )
    known = _SETTINGS[parts.scheme]
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in known:
            allowed = f"allowed: {', '.join(known)}" if known else "none are allowed"
            raise UsageError(f"{option('objects')} cannot have the parameter {name!r}; {allowed}")
    if "endpoint" in given:
        _check_endpoint(address, given["endpoint"])
    if parts.scheme == "az" and not given.get("account"):
        raise UsageError(f"{option('objects')} {address!r} names no storage account: write {_FORMS}")


def _check_endpoint(address: str, endpoint: str) -> None:
    parts = _split(endpoint)
    if parts is not None and "@" in parts.netloc:
        raise UsageError(
            f"{option('objects')} {_without_secrets(address)!r} has a password in its endpoint, which every"
            " process list would show",
            hint=_HOW_TO_GIVE_KEYS.get(address.partition(":")[0]),
        )
    is_address = parts is not None and parts.scheme in ("http", "https") and _HOST.fullmatch(parts.netloc)
    if not is_address:
        raise UsageError(
            f"{option('objects')} {address!r} has an endpoint that is not an address: write"
            " endpoint=https://HOST or endpoint=http://HOST:PORT"
        )


def _split(address: str) -> SplitResult | None:
    """The parts of an address; None where it is none."""
    try:
        parts = urlsplit(address)
        return parts if parts.port is None or parts.port > 0 else None
    except ValueError:  # half of a bracket around an address of IPv6, a port that is no number or too large
        return None


def _without_secrets(address: str) -> str:
    return re.sub(r"://[^/@]*@", "://***@", address.partition("?")[0])


def open_objects(address: str, *, tries: int = _TRIES) -> RemoteObjects:
    """The object store at an address; nothing is asked of it yet.

    Args:
        address: As `check_address` lets through. Keys are found where the store's own programs find them: in
            variables, in ``~/.aws/credentials``, or given by the machine.
        tries: How often what fails for the moment is tried.

    Raises:
        UsageError: It is no such address.
        ObjectsError: What it says contradicts itself, or the folder cannot be made.
    """
    check_address(address)
    parts = urlsplit(address)
    known = _SETTINGS[parts.scheme]
    settings: dict[str, Any] = {known[name]: value for name, value in parse_qsl(parts.query)}
    prefix = unquote(parts.path).strip("/") or None
    options: Any = {
        "timeout": _TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
        "connect_timeout": _CONNECT_TIMEOUT,
    }
    if str(settings.get("aws_endpoint", settings.get("azure_storage_endpoint", ""))).startswith("http://"):
        options["allow_http"] = True
    authorities = _own_authorities(parts.scheme, os.environ)
    if authorities is not None:
        options["root_certificate"] = authorities  # beside those that the system trusts
    retries: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}  # the rest is done here
    try:
        if parts.scheme == "file":
            store: Any = LocalStore(unquote(parts.path), mkdir=True)
        elif parts.scheme == "s3":
            config: Any = {**_keys_of_file(os.environ), **settings}
            store = S3Store(
                parts.netloc, prefix=prefix, config=config, client_options=options, retry_config=retries
            )
        elif parts.scheme == "gs":
            store = GCSStore(parts.netloc, prefix=prefix, client_options=options, retry_config=retries)
        else:
            config = settings
            store = AzureStore(
                parts.netloc, prefix=prefix, config=config, client_options=options, retry_config=retries
            )
    except (BaseError, OSError, ValueError) as error:
        raise ObjectsError(
            f"{address} cannot be used: {_shortened(str(error))}", hint=_HOW_TO_GIVE_KEYS.get(parts.scheme)
        ) from error
    return RemoteObjects(address, store, tries=tries)


def _own_authorities(scheme: str, variables: Mapping[str, str]) -> bytes | None:
    """Certificates of authorities that are trusted for this kind of store, as its own programs read them.

    Raises:
        ObjectsError: The file that is named cannot be read, or has none.
    """
    variable = _OWN_BUNDLES.get(scheme, "")
    path = variables.get(variable)
    if not path:
        return None
    try:
        found = expand_user(path).read_bytes()
    except OSError as error:
        raise ObjectsError(f"{variable} is {path}, which cannot be read: {error_text(error)}") from error
    if _PEM not in found:
        raise ObjectsError(f"{variable} is {path}, which contains no certificate in PEM form")
    return found


def _keys_of_file(variables: Mapping[str, str]) -> dict[str, str]:
    """S3 keys from the file that Amazon's own programs read, unless variables say them."""
    if variables.get("AWS_ACCESS_KEY_ID"):
        return {}
    path = expand_user(variables.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials")
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(path)
        section = file[variables.get("AWS_PROFILE") or "default"]
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name: section[name] for name in names if name in section}
