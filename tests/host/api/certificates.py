"""Certificates for a test, made by the openssl command: an authority, and what it signs."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*args: str) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True, timeout=60)


class Authority:
    """An authority with a folder of its own. ``cert``: its certificate."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = folder / f"{name}.key"
        self.cert = folder / f"{name}.pem"
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(self._key)]
        ends = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        _openssl("req", "-x509", *new, *ends, "-subj", f"/CN={name}", "-days", "2", "-out", str(self.cert))

    def sign(self, name: str, usage: str, names: str) -> tuple[Path, Path]:
        """A certificate and its key.

        :param usage: ``serverAuth`` or ``clientAuth``.
        :param names: for whom: ``IP:127.0.0.1,IP:::1``.
        """
        key, request, cert = (self._folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n")
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key)]
        _openssl("req", *new, "-subj", f"/CN={name}", "-out", str(request))
        signer = ["-CA", str(self.cert), "-CAkey", str(self._key), "-CAcreateserial", "-days", "2"]
        _openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(cert))
        return cert, key
