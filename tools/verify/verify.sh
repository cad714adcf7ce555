#!/usr/bin/env bash
# Verifies and measures retromae on this machine with the programs of this folder: no Rust, no compiler, no network. README.md tells more.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
program=$here/bin/xtask
[[ -x $program ]] || { echo "error: bin/xtask is missing beside verify.sh; the bundle is incomplete" >&2; exit 2; }
exec "$program" verify "$@"
