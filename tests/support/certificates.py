"""Certificates for servers of tests, and the authority that signed them. Main entry: `make_certificates`."""

import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificates(NamedTuple):
    """Files in PEM form: an authority's certificate, a server's, and the server's key."""

    authority: Path
    server: Path
    key: Path


def make_certificates(folder: Path, name: str = "IP:127.0.0.1") -> Certificates:
    """Make an authority, and have it sign a certificate of a server.

    Args:
        folder: Where the files are made.
        name: Of the server, as OpenSSL writes alternative names: ``DNS:localhost``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extensions").write_text(f"subjectAltName={name}\nbasicConstraints=CA:FALSE\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout")
    for arguments in (
        ("req", "-x509", *new_key, "authority.key", "-out", "authority.pem", "-subj", "/CN=authority"),
        ("req", *new_key, "server.key", "-out", "server.csr", "-subj", "/CN=server"),
        ("x509", "-req", "-in", "server.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
         "-CAcreateserial", "-extfile", "extensions", "-out", "server.pem"),
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return Certificates(folder / "authority.pem", folder / "server.pem", folder / "server.key")
