"""How time and memory are measured, the same way for every peer."""

import time


class Stopwatch:
    """Adds up the seconds of the parts that count, so that warm-up stays out."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self):
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self._started


def resident_bytes():
    """Memory of this process now."""
    return status_bytes("VmRSS")


def peak_bytes():
    """Most memory that this process ever held, libraries and mapped weights included."""
    return status_bytes("VmHWM")


def status_bytes(field):
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
