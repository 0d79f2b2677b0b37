"""A number with its interval: as JSON has it, and as people read it."""

import numpy as np


def entry(value: float, low: float, high: float) -> dict:
    """A number with its interval, for JSON."""
    return {"value": plain(value), "low": plain(low), "high": plain(high)}


def plain(number: float) -> float | None:
    """For JSON: six decimals, so that the last bits of another machine's sums do not show; None for NaN."""
    return round(float(number), 6) + 0.0 if np.isfinite(number) else None


def show_entry(entry: dict, signed: bool) -> str:
    """`81.30 [79.10, 83.40]`, or `-` where there is no number; a difference is `signed`."""
    if entry["value"] is None:
        return "-"
    value, *bounds = (two_decimals(entry[name], signed) for name in ("value", "low", "high"))
    return value if entry["low"] is None else f"{value} [{', '.join(bounds)}]"


def two_decimals(number: float | None, signed: bool) -> str:
    """`81.30`, `+0.20` if it is `signed`, `-` for None."""
    if number is None:
        return "-"
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(number, 2) + 0.0:{'+' if signed else ''}.2f}"
