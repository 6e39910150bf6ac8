"""Report: a finding as text that reads well in a terminal and in a file."""

from __future__ import annotations

from typing import Final

import click

from gateway.doctor.finding import Finding

_MARKS: Final = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "red")}


def describe(finding: Finding) -> str:
    """The finding, and below it the line to change for each proxy."""
    mark, colour = _MARKS[finding.kind]
    lines = [f"{click.style(mark, fg=colour, bold=True)}  {finding.text}"]
    if finding.kind != "ok":
        for where, change in finding.remedy.items():
            first, *rest = change.split("\n")
            lines += [f"         {where:<8} {first}", *(f"                  {line.strip()}" for line in rest)]
    return "\n".join(lines)


def summary(wrong: int) -> str:
    """The last line."""
    if not wrong:
        return "All is well."
    return "One thing is wrong." if wrong == 1 else f"{wrong} things are wrong."
