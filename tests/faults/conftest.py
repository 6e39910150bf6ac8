"""The command line options of the fault suite, and the fixture ``stage``; docs/guarantees.md says how to run the suite."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.faults.servers import raise_file_limit
from tests.faults.stage import Stage, open_stage

HERE = Path(__file__).parent
FULL_SECONDS = 900
RESULTS: list[dict[str, Any]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--seed", type=int, default=1, help="the first seed of the fault suite's random choices")
    group.addoption("--seeds", type=int, default=1, help="how many seeds, counted up from the first, to run each scenario with")
    group.addoption("--full", action="store_true", help="the sizes and time limits of docs/guarantees.md instead of small sizes")
    group.addoption("--minutes", type=float, default=None, help="minutes for the scenario that mixes all faults; implies --full")
    group.addoption("--figures", default=None, help="file to append the measurements to, one JSON object per line")


def option(config: pytest.Config, name: str, default: Any) -> Any:
    # When all tests are run, pytest finds this file only after it has parsed the command line, so the option may be missing.
    return config.getoption(name, default)


def is_full(config: pytest.Config) -> bool:
    return bool(option(config, "full", default=False)) or option(config, "minutes", None) is not None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        first = option(metafunc.config, "seed", 1)
        metafunc.parametrize("seed", range(first, first + option(metafunc.config, "seeds", 1)))


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """uvloop, because thousands of clients share the cores with the gateways they test."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if is_full(config):
        minutes = option(config, "minutes", None) or 0
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.timeout(FULL_SECONDS + minutes * 60))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    stage = item.funcargs.get("stage") if hasattr(item, "funcargs") else None
    if isinstance(stage, Stage) and report.when == "call":
        result = {"scenario": item.name.partition("[")[0], "seed": stage.seed, "full": stage.full, "outcome": report.outcome}
        result |= {"seconds": round(report.duration, 1), "figures": stage.figures}
        RESULTS.append(result)
        if (file := option(item.config, "figures", None)) is not None:
            with Path(file).open("a") as output:
                output.write(json.dumps(result) + "\n")
        if report.failed:
            size = " --full" if stage.full else ""
            name = item.name.partition("[")[0]
            report.sections.append(("run it again", f"uv run pytest tests/faults -k {name} --seed {stage.seed}{size}"))
            for gateway in stage.gateways:
                report.sections.append((f"log of {gateway.name}, its end", gateway.output()[-3000:]))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if is_full(config) or config.get_verbosity() > 0:
        for result in RESULTS:
            figures = "; ".join(f"{name} {value}" for name, value in result["figures"].items())
            terminalreporter.write_line(f"{result['scenario']} seed {result['seed']} {result['outcome']} {result['seconds']} s: {figures}")


@pytest.fixture
async def stage(request: pytest.FixtureRequest, seed: int, tmp_path: Path) -> AsyncIterator[Stage]:
    raise_file_limit()
    async with open_stage(tmp_path, seed, full=is_full(request.config)) as stage:
        yield stage
