"""Says in a fixture's metadata which files and versions it was made from."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def made_from(files, packages):
    """Metadata for `save_file`: the SHA-256 of `files` (paths from the root) and the versions of `packages`."""
    hashes = {file: hashlib.sha256((ROOT / file).read_bytes()).hexdigest() for file in files}
    versions = {package: version(package) for package in packages}
    # One entry: safetensors writes several in an order that changes from run to run.
    return {"made_from": json.dumps({"files": hashes, "versions": versions})}
