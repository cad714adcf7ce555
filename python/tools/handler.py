"""Compiles python/xla/handler.cc, which retromae.jax needs.

python python/tools/handler.py              # to python/retromae/lib/, with the headers of the installed jaxlib
python python/tools/handler.py OUTPUT       # to another file
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "libretromae_jax.so"


def headers():
    """Returns the folder of jaxlib's headers, None if there is no jaxlib. Neither jax nor jaxlib is imported."""
    spec = importlib.util.find_spec("jaxlib")
    places = [Path(place) / "include" for place in (spec.submodule_search_locations if spec else [])]
    return next((place for place in places if (place / "xla/ffi/api/ffi.h").exists()), None)


def command(output, include, compiler=None):
    """Returns the command that compiles the handler with the headers of the folder `include`. `compiler` is that of C++,
    with its options; `CXX` if it is None, else c++."""
    compiler = compiler or shlex.split(os.environ.get("CXX", "c++"))
    folder = ROOT / "python" / "xla"
    options = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra"]
    # No symbol of the C++ library is taken from the process or given to it.
    options += ["-static-libstdc++", "-static-libgcc", f"-Wl,--version-script={folder / 'exports.map'}", "-s"]
    folders = ["-isystem", str(include), "-I", str(ROOT / "include")]
    source = str(folder / "handler.cc")
    return [*compiler, *options, *folders, source, "-ldl", "-o", str(output)]


def build(output, compiler=None):
    """Compiles the handler to the file `output`. Returns whether jaxlib's headers are there, without which it is left out."""
    include = headers()
    if include is None:
        return False
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(command(output, include, compiler), check=True)
    return True


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else ROOT / "python" / "retromae" / "lib" / NAME
    if not build(chosen):
        raise SystemExit("jaxlib is not installed; it should be, for its headers")
