"""API keys: random, kept as SHA-256, each with a name and scopes. 256 random bits need no slow hash: nobody guesses them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from trunkline import storage
from trunkline.errors import ArtefactError, OptionError, unknown

SCOPES = ("infer", "feedback", "admin")
_PREFIX = "tl-"


@dataclass(frozen=True)
class Key:
    """Who may do what. name: shown in logs and kept with feedback; sha256: of the key, which is written nowhere."""

    name: str
    scopes: tuple[str, ...]
    sha256: str


class Keys:
    """The keys of a file."""

    def __init__(self, path: Path) -> None:
        try:
            given = storage.from_json(path.read_bytes(), str(path))
            self.keys = [Key(str(one["name"]), tuple(map(_scope, one["scopes"])), str(one["sha256"])) for one in given["keys"]]
        except (OSError, ValueError, KeyError, TypeError, OptionError) as error:
            raise ArtefactError(f"{path}: not a file of API keys ({error}). Make one: trunkline keys {path} --name app") from error
        if not self.keys:
            raise ArtefactError(f"{path}: holds no key. Make one: trunkline keys {path} --name app")

    def find(self, secret: str) -> Key | None:
        """The key of a secret. Every key is compared, each in the same time, whichever is right."""
        given, found = _hashed(secret), None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, given):
                found = key
        return found


def add_key(path: Path, name: str, scopes: tuple[str, ...]) -> str:
    """Add a key to a file, which is made where there is none, and give its secret: the only time that it is seen.

    Raises: OptionError for a name that is taken or a scope that is none.
    """
    old = Keys(path).keys if path.exists() else []
    if not name or len(name) > 64 or not name.isprintable():
        raise OptionError(f"name={name!r}: use 1 to 64 printable characters.")
    if name in {key.name for key in old}:
        raise OptionError(f"name={name!r}: {path} has a key of this name. Choose another, or delete it there.")
    secret = _PREFIX + secrets.token_urlsafe(32)
    keys = [*old, Key(name, tuple(map(_scope, scopes)), _hashed(secret))]
    storage.write_file(path, storage.to_json({"keys": [asdict(key) for key in keys]}))
    return secret


def told(header: str | None) -> str | None:
    """The secret in an Authorization header: `Bearer SECRET`, or the password of `Basic`, which a browser asks for."""
    kind, _, rest = (header or "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip() or None
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _scope(scope: str) -> str:
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)
    return scope


def _hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
