"""Copying a checkpoint: the least that writing a merged one can cost."""

import os
import shutil
import time
from pathlib import Path

from measure import peak_bytes


def run(args):
    """Copies the model's files to `copy` in the workload directory, synced to the disk."""
    target = Path(args.work) / "copy"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = sorted(p for p in Path(args.model).iterdir() if p.is_file())
    started = time.perf_counter()
    for file in files:
        shutil.copyfile(file, target / file.name)
        synced(target / file.name)
    seconds = time.perf_counter() - started
    copied = sum(file.stat().st_size for file in files)
    shutil.rmtree(target)
    return {"seconds": seconds, "bytes": copied, "peak_bytes": peak_bytes()}


def synced(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
