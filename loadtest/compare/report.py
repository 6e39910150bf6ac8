"""The report of a comparison: a table for each kind of work, written into a page, and a plot."""

from __future__ import annotations

import datetime as dt
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loadtest.compare.work import Row, Work

Results = Sequence[tuple[float, Row]]
"""For each server: what an event costs as a multiple of what it costs the floor, and all its figures."""

BEGIN: Final = "<!-- measured: written by loadtest/compare/run.py -->"
END: Final = "<!-- measured: end -->"
GREY: Final = "#7d8590"  # readable on white and on black
OURS: Final = "#2f81f7"
THEIRS: Final = "#a371f7"


def median_row(rows: Sequence[Row], floors: Sequence[Row]) -> tuple[float, Row]:
    """The median of several rounds, column by column, and that of an event's cost as a multiple of the floor's in the same round."""
    columns = {
        name: statistics.median(getattr(row, name) for row in rows)
        for name in ("us_per_event", "us_in_redis", "us_per_connection", "kib_per_connection", "p50", "p99")
    }
    ratio = statistics.median(row.us_per_event / floor.us_per_event for row, floor in zip(rows, floors, strict=True))
    return ratio, Row(name=rows[0].name, **columns)


def machine() -> str:
    """The machine's processor and kernel."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release().partition('-')[0]}"


def table(results: Results, versions: Mapping[str, str]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| server | × C loop | µs/event | in Redis | µs/connection | KiB/connection | p50 ms | p99 ms | version |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for ratio, row in results:
        name = f"**{row.name}**" if _ours(row) else row.name
        event = f"{ratio:.2f} | {row.us_per_event:.2f} | {f'{row.us_in_redis:.2f}' if row.us_in_redis else ''}"
        connection = f"{row.us_per_connection:.0f} | {max(0, row.kib_per_connection):.1f}"
        lines.append(f"| {name} | {event} | {connection} | {row.p50:.1f} | {row.p99:.1f} | {versions[row.name]} |")
    return "\n".join(lines)


def section(results: Mapping[Work, Results], versions: Mapping[str, str], absent: Mapping[str, str], rounds: int) -> str:
    """The text for the page: when and where it was measured, a table for each kind of work, and what was not measured."""
    load = os.getloadavg()[2]
    today = dt.datetime.now(dt.UTC).date()
    lines = [f"Measured on {today}, {machine()}, average load of the last 15 minutes {load:.1f}, median of {rounds} rounds."]
    for work, rows in results.items():
        lines += ["", f"**{work}**", "", table(rows, versions)]
    lines += ["", *(f"Not measured: {name}: {why}  " for name, why in absent.items())]
    return "\n".join(lines).rstrip()


def write(page: Path, text: str) -> None:
    """Replace the text between the two marks of a page.

    Raises:
        ValueError: if the page has no such marks.
    """
    content = page.read_text()
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: the marks {BEGIN} and {END} are expected; the results are written between them")
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def plot(together: Results, alone: Results, path: Path) -> None:
    """Draw bar charts side by side, with a transparent background for light and dark pages.

    Args:
        together: the results with all clients in one room
        alone: the results with a room for each client
        path: of the picture
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 - takes a second, and --small draws no plot

    names = [row.name for _, row in together][::-1]
    columns = {
        "CPU per delivered event,\nmany clients in a room, × C loop": [ratio for ratio, _ in together],
        "CPU per delivered event,\none client in a room, × C loop": [ratio for ratio, _ in alone],
        "CPU per connection, µs": [row.us_per_connection for _, row in alone],
        "memory per connection, KiB": [max(0, row.kib_per_connection) for _, row in alone],
    }
    figure, axes = plt.subplots(1, len(columns), figsize=(13, 0.42 * len(names) + 1), sharey=True)
    for axis, (title, values) in zip(axes, columns.items(), strict=True):
        colours = [OURS if _ours(row) else GREY if index == 0 else THEIRS for index, (_, row) in enumerate(together)]
        bars = axis.barh(names, values[::-1], color=colours[::-1], height=0.65)
        axis.bar_label(bars, fmt="%.1f" if max(values) < 100 else "%.0f", padding=3, color=GREY, fontsize=9)
        axis.set_title(title, color=GREY, fontsize=10)
        axis.tick_params(colors=GREY, length=0, labelsize=9)
        axis.set_xticks([])
        axis.margins(x=0.15)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, transparent=True)
    plt.close(figure)


def _ours(row: Row) -> bool:
    return row.name.startswith("Notify Gateway")
