"""The library in a process: which one is loaded, forks, threads, and random calls, each in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import retromae
from retromae import _library

HERE = Path(__file__).parent
FUZZ_COUNT = os.environ.get("RETROMAE_FUZZ_COUNT", "4000")
ATTENTION = """
import numpy as np
import retromae.numpy as rn

def attend(seed=0):
    query = np.random.default_rng(seed).standard_normal((20, 2, 32)).astype(np.float32)
    return rn.attention(query, query, query, rn.prefix_sums([15, 5]))[0]
"""


def python(code, **variables):
    """Runs code in a new process that finds the package where this one found it; returns what it printed. It must end with 0."""
    folders = [str(Path(retromae.__file__).parents[1]), str(HERE)]
    environment = (
        os.environ | {"PYTHONPATH": os.pathsep.join(folders), "RETROMAE_LIBRARY": loaded()} | variables
    )
    command = [sys.executable, "-X", "faulthandler", "-c", code]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def loaded():
    """The library of this process."""
    return _library.LIBRARY._name


def refusal(library):
    """What importing the package says with this library."""
    code = """
try:
    import retromae
except ImportError as error:
    print(type(error).__module__, type(error).__name__, error)
"""
    return python(code, RETROMAE_LIBRARY=str(library))


def compiled(folder, source):
    """A library of a C source."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("ignored: no C compiler")
    (folder / "library.c").write_text(source)
    output = folder / "library.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", output, folder / "library.c"], check=True)
    return output


def test_no_library(tmp_path):
    said = refusal(tmp_path / "none.so")
    assert said.startswith("retromae.errors LibraryError the library is not there (")
    assert "none.so" in said and "it should be a file libretromae.so of version 0.1" in said


def test_a_file_that_is_no_library(tmp_path):
    (tmp_path / "text.so").write_text("text")
    assert "the library is not there (" in refusal(tmp_path / "text.so")


def test_another_library(tmp_path):
    said = refusal(compiled(tmp_path, "int unrelated(void) { return 1; }"))
    assert "the library is another one (" in said and "rmae_version" in said


def test_a_library_of_another_version(tmp_path):
    source = "void rmae_version(int* major, int* minor, int* patch) { *major = 0, *minor = 9, *patch = 3; }"
    library = compiled(tmp_path, source)
    assert f"the library is of version 0.9.3 ({library}); it should be 0.1" in refusal(library)


def test_a_library_that_lacks_functions(tmp_path):
    source = "void rmae_version(int* major, int* minor, int* patch) { *major = 0, *minor = 1, *patch = 0; }"
    assert "the library is another one (" in refusal(compiled(tmp_path, source))


def test_a_fork_after_the_first_call():
    code = """
import os
expected = attend()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(attend(), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(attend(), expected)
"""
    python(ATTENTION + code)


def test_multiprocessing_after_the_first_call():
    code = """
import multiprocessing
expected = [attend(seed) for seed in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    for result, right in zip(pool.map(attend, range(4)), expected):
        assert np.array_equal(result, right)
"""
    python(ATTENTION + code)


def test_threads():
    """Calls of several threads, right ones and wrong ones: each has its own result and its own error."""
    code = """
import threading
import retromae
expected, failures = [attend(seed) for seed in range(8)], []

def work(seed):
    for _ in range(20):
        if not np.array_equal(attend(seed), expected[seed]):
            failures.append(seed)
        query = np.zeros((4, 1, 40 + 8 * seed), np.float32)
        try:
            rn.attention(query, query, query, rn.prefix_sums([4]))
        except retromae.Unsupported as error:
            if str(40 + 8 * seed) not in str(error):
                failures.append(str(error))

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
"""
    python(ATTENTION + code)


def test_an_exit_with_threads_that_call():
    code = """
import threading
attend()
threading.Thread(target=lambda: [attend() for _ in range(10**9)], daemon=True).start()
"""
    python(ATTENTION + code)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_calls(seed):
    """Random arguments: every call runs or raises a retromae.Error, and the process lives."""
    print(python(f"import fuzz; fuzz.main({int(FUZZ_COUNT)}, {seed})"))


def test_the_interpreter_only():
    """The package itself needs no framework."""
    code = """
import sys
import retromae
assert not {"numpy", "torch", "jax"} & set(sys.modules), sorted(sys.modules)
"""
    python(code)
