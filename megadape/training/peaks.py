"""How many floating-point operations a second a device could make at most, by the makers' data sheets.

Dense products (no sparsity): of half precision on tensor cores, accumulated in float32, and of float32 itself.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """Operations a second, in units of 10^12."""

    half: float
    single: float


PEAKS = {
    r"\bB200\b": Peak(2250, 75),
    r"\bH200\b": Peak(989, 67),
    r"\bH100 PCIe\b": Peak(756, 51),
    r"\bH100 NVL\b": Peak(835, 60),
    r"\bH100\b": Peak(989, 67),
    r"\bA100\b": Peak(312, 19.5),
    r"\bA40\b": Peak(149.7, 37.4),
    r"\bA10\b": Peak(125, 31.2),
    r"\bA30\b": Peak(165, 10.3),
    r"\bL40S\b": Peak(362, 91.6),
    r"\bL40\b": Peak(181, 90.5),
    r"\bL4\b": Peak(121, 30.3),
    r"\bRTX A6000\b": Peak(154.8, 38.7),
    r"\bRTX 4090\b": Peak(165.2, 82.6),
    r"\bRTX 3090\b": Peak(71, 35.6),
    r"\bV100\b.*PCIE": Peak(112, 14),
    r"\bV100\b": Peak(125, 15.7),
    r"\bT4\b": Peak(65, 8.1),
}
"""Pattern of the device's name -> its peak; the first that fits counts."""


def known_peak(name: str, precision: str) -> float | None:
    """Operations a second of a device of that name; None where it is not known.

    Args:
        name: as the driver calls it.
        precision: fp32, bf16 or fp16.
    """
    peak = next((peak for pattern, peak in PEAKS.items() if re.search(pattern, name, re.IGNORECASE)), None)
    if peak is None:
        return None
    return 1e12 * (peak.single if precision == "fp32" else peak.half)


def device_peak(device: torch.device, precision: str) -> float | None:
    """The same of a device that is here; of a CPU nothing is known."""
    return known_peak(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None
