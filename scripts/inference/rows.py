"""Rows of the result, and the targets that are read off them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.rounds import Timing

KEYS = (
    *("name", "model", "engine", "dtype", "seconds", "spread"),
    *("max_error", "versus", "ratio"),
)
"""What every row has. Seconds are medians, the spread is in seconds, ``ratio`` is the seconds of the
row named in ``versus`` over the row's own: above 1 is faster. A baseline is versus itself."""


@dataclass(frozen=True, slots=True)
class Side:
    """Which engine and dtype a column of measurements is of."""

    label: str
    engine: str
    dtype: str
    provider: str = ""
    """What runs a deployment's graphs: a row says so."""


EAGER = Side("eager", "eager", "float32")
COMPILE = Side("compile", "compile", "float32")
ONNX = Side("onnx", "onnx", "float32", "cpu")
INT8 = Side("onnx int8", "onnx", "int8", "cpu")
OPENVINO = Side("onnx openvino", "onnx", "float32", "openvino")
OPENVINO_INT8 = Side("onnx openvino int8", "onnx", "int8", "openvino")
TWINS = {ONNX.label: OPENVINO, INT8.label: OPENVINO_INT8}
"""The same folders, read by OpenVINO."""
BF16 = Side("eager bf16", "eager", "bfloat16")
SIDES = {side.label: side for side in (EAGER, COMPILE, ONNX, INT8, OPENVINO, OPENVINO_INT8, BF16)}


def rows_of(
    what: str,
    model: str,
    timings: Mapping[str, Timing],
    errors: Mapping[str, float],
    *,
    base: str = EAGER.label,
    flop: int | None = None,
    rates: Mapping[str, float] | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Return a row per label of ``timings``, named ``"<what>: <label>"``.

    ``flop`` of one unit of work gives the rate and its share of the machine's ``rates`` (GFLOP a second,
    by dtype).
    """
    rows = []
    for label, timing in timings.items():
        side = SIDES[label]
        row: dict[str, Any] = {
            "name": f"{what}: {label}",
            "model": model,
            "engine": side.engine,
            "dtype": side.dtype,
            "seconds": timing.seconds,
            "spread": timing.spread,
            "max_error": None if label not in errors else float(errors[label]),
            "versus": f"{what}: {base}",
            "ratio": timings[base].seconds / timing.seconds,
            "rounds": len(timing.values),
            **more,
        }
        if side.provider:
            row["provider"] = side.provider
        if flop is not None:
            rate = flop / timing.seconds / 1e9
            machine = (rates or {}).get(side.dtype)
            row["gflop"] = flop / 1e9
            row["gflop_per_second"] = rate
            row["share_of_matmul"] = None if not machine else rate / machine
        rows.append(row)
    return rows


def target(
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    row: str,
    key: str,
    bound: float,
    *,
    least: bool,
    also: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """Return whether a row keeps a target: at ``least`` the wanted value, or at most it.

    ``met`` is None where the row was not measured.
    """
    entry = rows.get(row)
    value = None if entry is None else float(entry[key])
    met = None
    if entry is not None and value is not None:
        met = (value >= bound if least else value <= bound) and also(entry)
    return {
        "name": name,
        "row": row,
        "key": key,
        "at_least" if least else "at_most": bound,
        "found": value,
        "met": met,
    }
