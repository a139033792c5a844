"""A plan in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypert5_jax.planning.chips import GIB
from hypert5_jax.planning.estimates import Estimate
from hypert5_jax.planning.topologies import read

Json = Mapping[str, Any]
HOST_CAVEAT = (
    "Compiled for this machine's CPU with as many fake devices: no libtpu is installed "
    "(pip install -e '.[tpu]').\nFLOPs, parameters and optimiser are those of the "
    "slice; temporaries, collectives and times are not: a TPU\nfuses, lays out and "
    "overlaps otherwise, and whether the step fits its memory cannot be told."
)


def program_text(measured: Json, found: Estimate | None, steps: int) -> str:
    """One program's paragraph.

    Args:
      measured: of `compiled.measures`.
      found: of `estimates.estimate`.
      steps: that the run makes; 0 leaves the run's days out.
    """
    took = f"{measured['compile_seconds']:.0f} s by {measured['compiler']}"
    sizes = " x ".join(f"{axis} {n}" for axis, n in measured["mesh"].items())
    lines = [f"{measured['program']} over {sizes}, compiled in {took}"]
    lines += _memory(measured)
    if found is not None:
        lines += _flops(measured, found)
        lines += _sent(measured["costs"])
        lines += _time(measured, found)
        if steps:
            lines += [_run(found, steps)]
        for name in measured["costs"]["unknown_loops"]:
            lines.append(f"  not known how often the loop {name} runs: counted once")
        for name in measured["costs"]["unknown_kernels"]:
            lines.append(f"  the kernel {name} does not say its FLOPs: counted as none")
    return "\n".join(lines)


def _memory(measured: Json) -> Iterator[str]:
    chip = read(measured["topology"]).chip
    memory, held = measured["memory"], measured["held"]
    yield f"  memory of a chip, GiB of {chip.hbm_bytes / GIB:.2f}:"
    for what, nbytes in held.items():
        yield f"    {what:24}{nbytes / GIB:8.2f}"
    for what in ("temporaries", "code"):
        if what in memory:
            yield f"    {what:24}{memory[what] / GIB:8.2f}"
        if what == "temporaries" and measured["kept"]:
            yield (
                f"      kept for the backward pass: {measured['kept'] / GIB:.2f}, as "
                "counted in the traced step"
            )
    verdict = {True: "fits", False: "DOES NOT FIT", None: "fits or not: unknown"}
    if "peak" in memory:
        most = f" of {memory['limit'] / GIB:.2f}" if "limit" in memory else ""
        yield (
            f"    {'peak':24}{memory['peak'] / GIB:8.2f}{most}   "
            f"{verdict[measured['fits']]}"
        )
    else:
        yield f"    {verdict[measured['fits']]}"


def _flops(measured: Json, found: Estimate) -> Iterator[str]:
    all_chips = measured["costs"]["flops"] * measured["chips"]
    yield (
        f"  FLOPs: compiled {_large(all_chips)}, by the model's shapes "
        f"{_large(measured['model_flops'])}: x {found.flops_ratio:.2f}"
    )


def _large(number: float) -> str:
    """1.5e12 -> "1.5 T"."""
    size, unit = (1e12, "T") if number >= 1e12 else (1e9, "G")
    return f"{number / size:,.1f} {unit}"


def _sent(costs: Json) -> Iterator[str]:
    if costs["sent"]:
        yield "  sent by a chip:"
    for one in costs["sent"]:
        axes = " x ".join(one["axes"])
        yield (
            f"    {one['kind']:20}{'over ' + axes:20}{one['times']:7} times "
            f"{one['bytes'] / 1e9:9.3f} GB"
        )


def _time(measured: Json, found: Estimate) -> Iterator[str]:
    costs = measured["costs"]
    parts = ", ".join(f"{name} {s * 1e3:,.0f}" for name, s in costs["parts"].items())
    slow, slow_mfu = "", ""
    if found.slow_seconds is not None and found.slow_mfu is not None:
        slow = f", {found.slow_seconds * 1e3:,.1f} by the compiler's cycles"
        slow_mfu = f" ({found.slow_mfu:.1%} by the compiler's cycles)"
    yield (
        f"  time: {found.seconds * 1e3:,.1f} ms with every operation at the chip's full "
        f"rate{slow}"
    )
    yield f"    ms of {parts}"
    yield (
        f"  MFU {found.mfu:.1%}{slow_mfu}, "
        f"{found.tokens_per_second:,.0f} tokens a second and chip"
    )
    if measured["program"] == "train":
        each = read(measured["topology"]).chips_per_host
        rows = f"{found.rows_per_second:,.0f} rows a second"
        yield f"  each host of {each} chips reads {rows}"


def _run(found: Estimate, steps: int) -> str:
    return (
        f"  {steps:,} steps: {found.hours:,.1f} hours ({found.hours / 24:.1f} days), "
        f"{found.chip_hours:,.0f} chip-hours, about ${found.dollars:,.0f}"
    )


def trace_text(measured: Json, count: int = 25) -> str:
    """The most expensive operations: time, share, what bounds them, where they are from."""
    costs = measured["costs"]
    if costs is None:
        return f"{measured['program']}: not compiled, nothing to trace"
    total = costs["seconds"]
    lines = [f"{measured['program']}: the most expensive operations"]
    lines.append(
        "        ms  share   times  ms at full rate: matrix  vector  memory  cycles  operation"
    )
    for one in costs["operations"][:count]:
        peak = one["at_peak"]
        lines.append(
            f"  {one['seconds'] * 1e3:8.2f} {one['seconds'] / total:6.1%} "
            f"{one['times']:7}  {peak['matrix'] * 1e3:23.2f} {peak['vector'] * 1e3:7.2f} "
            f"{peak['memory'] * 1e3:7.2f} {one['slow_seconds'] * 1e3:7.2f}  "
            f"{one['kind']} {one['name']}{' (overlaps)' if one['early'] else ''}"
        )
        if one["source"]:
            lines.append(f"{'':28}{_short(one['source'])}")
    return "\n".join(lines)


def _short(source: str) -> str:
    """The end of a path of names, without what loops and checkpoints add to it."""
    plain = ("while", "body", "closed_call", "checkpoint", "jvp()")
    parts = [part for part in source.split("/") if part not in plain]
    text = "/".join(parts)
    return text if len(text) <= 110 else "…" + text[-109:]


COLUMNS = (
    "topology",
    "mesh",
    "chips",
    "peak GiB",
    "fits",
    "ms",
    "MFU",
    "FLOPs",
    "hours",
    "chip-h",
    "$",
)


def table_row(measured: Json, found: Estimate | None) -> tuple[str, ...]:
    """One row of a table of searches, as COLUMNS say."""
    sizes = measured["mesh"]
    mesh = " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1) or "1"
    peak = measured["memory"].get("peak")
    fits = {True: "yes", False: "no", None: "?"}[measured["fits"]]
    first = (
        measured["topology"],
        mesh,
        str(measured["chips"]),
        f"{peak / GIB:.1f}" if peak else "?",
        fits,
    )
    if found is None:
        return (*first, *[""] * (len(COLUMNS) - len(first)))
    return (
        *first,
        f"{found.seconds * 1e3:,.0f}",
        f"{found.mfu:.0%}",
        f"x {found.flops_ratio:.2f}",
        f"{found.hours:,.1f}",
        f"{found.chip_hours:,.0f}",
        f"{found.dollars:,.0f}",
    )


def table(rows: Sequence[Sequence[str]], columns: Sequence[str] = COLUMNS) -> str:
    """Rows below their heading, in columns."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip()
        for row in (columns, *rows)
    )
