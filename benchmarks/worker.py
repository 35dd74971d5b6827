"""The process of one contender: builds its row, then runs when told.

Peak memory is the process's high-water mark of resident memory (VmHWM, reset after the build)
less what was resident once the library was imported. So inputs, outputs, temporaries and what the
compiler left behind count; interpreter and library code do not.
"""

import gc
import importlib
import resource
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import peers

SHORTEST_SAMPLE = 100e-6


def status_bytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def reset_peak():
    """False where the kernel does not let a process reset its high-water mark."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


class Contender:
    def __init__(self, row, build):
        self.row = row
        self.build_function = build
        self.resident = status_bytes("VmRSS")
        self.call = None
        self.inner = 1

    def build(self):
        """(seconds until the first result, values to compare); later calls set the inner count."""
        data = self.row.data()
        began = time.perf_counter()
        self.call = self.build_function(data)
        value = self.call.run()
        seconds = time.perf_counter() - began
        for _ in range(self.row.check_calls - 1):
            value = self.call.run()
        values = self.call.fetch(value)
        del value
        gc.collect()
        gc.disable()
        self.calibrate()
        return seconds, values

    def calibrate(self):
        """Calls per sample, so that a sample is long enough for the clock."""
        while True:
            began = time.perf_counter()
            for _ in range(self.inner):
                self.call.run()
            if time.perf_counter() - began >= SHORTEST_SAMPLE:
                return
            self.inner *= 2

    def time(self, seconds):
        run, loop, clock = self.call.run, range(self.inner), time.perf_counter
        run()
        samples = []
        end = clock() + seconds
        while clock() < end or len(samples) < 3:
            began = clock()
            for _ in loop:
                run()
            samples.append((clock() - began) / self.inner)
        return samples

    def peak(self):
        fresh = reset_peak()
        for _ in range(3):
            self.call.run()
        if not fresh:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - self.resident
        return status_bytes("VmHWM") - self.resident

    def once(self):
        clocks = self.build_function()
        return clocks, status_bytes("VmHWM")


def answer(contender, message):
    command, *arguments = message
    try:
        return "ok", getattr(contender, command)(*arguments)
    except Exception as error:
        traceback.print_exc()
        words = str(error).splitlines() or [""]
        return "failed", f"{type(error).__name__}: {words[0]}"


def main():
    module, row_name, name, threads, descriptor = sys.argv[1:]
    pipe = Connection(int(descriptor))
    try:
        # Before the row's module: that one imports NumPy, which is part of the library's price.
        began = time.perf_counter()
        peers.load(name, int(threads))
        if name == "staticgraph":  # it loads itself at the first use, which is part of the price
            importlib.import_module("staticgraph.public")
        import_seconds = time.perf_counter() - began
    except ImportError as error:
        pipe.recv()
        pipe.send(("failed", f"not installed: {error}"))
        return
    rows = importlib.import_module(f"benchmarks.{module}").ROWS
    (row,) = (row for row in rows if row.name == row_name)
    peers.configure(name, row.dtype, int(threads))
    contender = Contender(row, row.contenders[name])
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return
        state, value = answer(contender, message)
        if message[0] == "once" and state == "ok":
            value[0]["import"] = import_seconds
        pipe.send((state, value))


if __name__ == "__main__":
    main()
