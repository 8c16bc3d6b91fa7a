"""What every test begins with: this folder on the import path, the fixtures' weights, and signals as at a terminal."""

import signal

import pytest

from drawn import draw_all

# A shell without job control starts what it runs in the background with SIGINT ignored, nohup ignores SIGHUP, and tests
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # but not in each worker
        draw_all()
