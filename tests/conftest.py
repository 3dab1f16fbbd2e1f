"""One thread for all tests; tests that read real data: skipped with a reason without ``PIXELGAN_DATA``, never with it.

Mark such a test with ``@pytest.mark.realdata`` and take the folder from the fixture ``real_data``. Where the variable
is set the person running the tests wants them to run, so a skip then counts as a failure.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

# Before torch is imported. A process whose OpenMP threads have worked cannot be forked by the tests that kill runs: the
# child waits for ever for threads that it does not have. The models here are too small to gain from threads anyway.
os.environ["OMP_NUM_THREADS"] = "1"

VARIABLE = "PIXELGAN_DATA"
REASON = f"{VARIABLE} is not set: it names the folder with the real data sets (MNIST, SVHN, smallnorb)"


def _data_folder() -> str | None:
    return os.environ.get(VARIABLE) or None


@pytest.fixture(autouse=True)
def _no_wandb_run_left_open() -> Generator[None, None, None]:
    """The next test of this process would go on in it."""
    yield
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; only for tests marked ``realdata``."""
    folder = _data_folder()
    if folder is None:
        pytest.fail("the fixture real_data is for tests marked `realdata`")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"{VARIABLE}={folder!r} is not a folder")
    return path


def pytest_configure() -> None:
    """Prepare lightning-bolts where it is: pytest-xdist imports the classes of the warnings of its processes."""
    with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):  # it warns of itself
        importlib.import_module("pixelgan_lightning.bolts")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _data_folder() is None:
        for item in items:
            if item.get_closest_marker("realdata"):
                item.add_marker(pytest.mark.skip(reason=REASON))


def _skipped(report: pytest.TestReport) -> bool:
    return report.skipped and not hasattr(report, "wasxfail")  # pytest reports an expected failure as skipped too


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.get_closest_marker("realdata"):
        report.real_data = True  # read by the summary below
        if _skipped(report) and _data_folder() is not None:
            report.outcome = "failed"
            report.longrepr = f"{VARIABLE} is set, but this real-data test was skipped: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "real_data", False)]
    skipped = sum(_skipped(r) for r in reports)
    ran = sum(r.when == "call" and not _skipped(r) for r in reports)
    why = f" ({REASON})" if skipped else ""
    terminalreporter.write_line(f"real-data tests: {ran} ran, {skipped} skipped{why}")
