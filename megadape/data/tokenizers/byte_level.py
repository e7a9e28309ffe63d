"""GPT-2's printable stand-ins for bytes, in which byte-level vocabularies are written (Radford et al., 2019)."""

from __future__ import annotations


def _stand_ins() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _stand_ins()
"""Character -> the byte that it stands for."""


def to_bytes(token: str) -> bytes | None:
    """The bytes that a token of a byte-level vocabulary stands for; None when it is not written in stand-ins."""
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError:
        return None
