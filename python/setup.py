"""Builds what the wheel carries beside Python: the C library, by cargo from the clone that this folder is in, and the handler for
JAX where jaxlib's headers are installed.

The metadata is in pyproject.toml. With nvcc in reach, as for `cargo build`, the library has the kernels of the GPU in it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LIBRARY = "retromae_capi"


def environment():
    """Returns the environment of cargo: that of pip, without the folders in PATH that each isolated build has anew. All kernels would
    be compiled again for a new PATH, in which nvcc is looked for."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return os.environ | {"PATH": os.pathsep.join(place for place in folders if "pip-build-env-" not in place)}


def cargo_build():
    """Builds the C library; returns its file, wherever cargo's settings let it be."""
    if not (ROOT / "capi" / "Cargo.toml").exists():
        raise SetupError(
            f"the sources of the C library are not in {ROOT}: install from a clone of the repository, or a wheel"
        )
    cargo = os.environ.get("CARGO") or shutil.which("cargo")
    if not cargo:
        raise SetupError(
            "cargo is not installed, which builds the C library: install Rust (https://rustup.rs) and a C++ compiler, "
            "or a wheel"
        )
    command = [cargo, "build", "--release", "--package", "retromae-capi"]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE)
    if built.returncode:
        raise SetupError(f"`{' '.join(command)}` failed in {ROOT}")
    messages = map(json.loads, built.stdout.splitlines())
    artifacts = [message for message in messages if message["reason"] == "compiler-artifact"]
    files = [
        file for message in artifacts if message["target"]["name"] == LIBRARY for file in message["filenames"]
    ]
    return next(file for file in files if file.endswith(".so"))


def build_library(output):
    """Writes the C library without symbols that nobody links to."""
    library = cargo_build()
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["strip", "--strip-unneeded", "-o", str(output), library], check=True)
    except FileNotFoundError:
        raise SetupError("strip is not installed: install binutils") from None


def build_handler(output):
    """Compiles the handler for JAX, if jaxlib's headers are there."""
    script = HERE / "tools" / "handler.py"
    if script.exists():
        spec = importlib.util.spec_from_file_location("handler", script)
        handler = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(handler)
        handler.build(output)


class BuildPackage(build_py):
    """The package with its libraries; an editable installation has them in the source tree."""

    def run(self):
        if not self.editable_mode:
            # Files that an earlier build left there would be in the wheel.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        package = HERE if self.editable_mode else Path(self.build_lib)
        folder = package / "retromae" / "lib"
        build_library(folder / "libretromae.so")
        build_handler(folder / "libretromae_jax.so")


class BuildWheel(bdist_wheel):
    """A wheel for every Python: the libraries depend on the platform alone."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class PlatformDistribution(Distribution):
    def has_ext_modules(self):
        return True


setup(
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildPackage, "bdist_wheel": BuildWheel},
)
