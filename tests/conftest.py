"""What every test begins with: this folder on the import path, and signals that do what they do at a terminal."""

import signal

# A shell without job control starts what it runs in the background with SIGINT ignored, nohup ignores SIGHUP, and tests
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
