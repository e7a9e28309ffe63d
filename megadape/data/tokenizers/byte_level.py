"""GPT-2's printable stand-ins for bytes, in which byte-level vocabularies are written (Radford et al., 2019)."""

from __future__ import annotations


def _stand_ins() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _stand_ins()
"""Character -> the byte that it stands for."""


_TO_LATIN_1 = dict.fromkeys(range(256), 65535) | {ord(stand_in): byte for stand_in, byte in BYTE_OF.items()}
"""Character -> the one of Latin-1 with the byte's number, or one that Latin-1 does not have."""


def to_bytes(token: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary stands for; None when it is not written in stand-ins."""
    try:
        return token.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        return None
