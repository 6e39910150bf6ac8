"""What several scenarios need: channels for their clients, and the times at which something happened to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.faults.clients import Follower

GIVE_UP_SECONDS = 30.0  # what has not happened by then will not happen, even on a slow machine


def channel_names(count: int) -> list[str]:
    return [f"jobs:{i}" for i in range(count)]


def two_of(channels: list[str], since: str = "0") -> Callable[[int], Mapping[str, str]]:
    """Gives each client two of the channels, so that clients share channels and each one's events come from both in turn."""
    return lambda i: {channels[i % len(channels)]: since, channels[(i + 3) % len(channels)]: since}


def moments(followers: Sequence[Follower], kind: str, text: str, since: float) -> list[float]:
    """The times of all lines of this kind in the clients' logs that contain the text, in order."""
    return sorted(
        line.time for follower in followers for line in follower.log.lines if line.kind == kind and line.time >= since and text in line.text
    )


def peak(times: Sequence[float], began: float, seconds: float) -> float:
    """The highest number within one second, as a multiple of the mean over these seconds; the second after them counts as well."""
    counted = [moment for moment in times if began <= moment < began + seconds + 1]
    highest = max((sum(start <= other < start + 1 for other in counted) for start in counted), default=0)
    return highest / (max(1, len(counted)) / seconds)
