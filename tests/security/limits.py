"""Attacks that would hang or eat the memory run under a clock and a memory count of their own."""

import resource
import signal
import tracemalloc
from contextlib import contextmanager


class TookTooLong(BaseException):
    """The attack won: nobody refused it in time."""


@contextmanager
def within(seconds=2.0, megabytes=64):
    """Fail a block that uses the processor for longer, or lets Python hold more memory at once.

    Nothing sleeps and nothing waits: the clock is the process's own, so a busy machine changes no verdict.
    """

    def late(number, frame):
        raise TookTooLong

    old = signal.signal(signal.SIGPROF, late)
    tracemalloc.start()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except TookTooLong:
        raise AssertionError(f"more than {seconds} s") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.signal(signal.SIGPROF, old)
    assert peak < megabytes << 20, f"{peak >> 20} MB at once"


@contextmanager
def blocked_is_caught(seconds=3.0):
    """Fail a block that waits (on a pipe, say) for longer."""

    def late(number, frame):
        raise TookTooLong

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TookTooLong:
        raise AssertionError(f"waited for more than {seconds} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def peak_rss_mb():
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
