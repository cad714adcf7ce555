"""What a call costs beside its kernels: the smallest inputs, on the CPU, in microseconds.

Each operation is called with the library, and with one that does nothing, which leaves the border: dispatcher, checks, descriptor,
outputs, the call of a C function. The least of many short repeats is taken; a busy machine does not lower it.

    RETROMAE_LIBRARY=.../libretromae.so python benches/overhead.py
"""

import argparse
import ctypes
import time

import torch
from torch.nn import functional

from retromae import _abi
from retromae._library import LIBRARY, device
from retromae.torch import _arrays as arrays
from retromae.torch import attention, dropout_add_layer_norm, linear_cross_entropy, prefix_sums

CALLS = 20


def microseconds(call, repeats):
    for _ in range(CALLS):
        call()
    least = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        least = min(least, time.perf_counter() - start)
    return least / CALLS * 1e6


def with_gradient(call, *leaves):
    """A call with its backward pass."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    gradient = torch.ones_like(call(*leaves))
    return lambda: torch.autograd.grad(call(*leaves), leaves, gradient)


def operations(rows):
    """Names of ours and of PyTorch's that do the same, calls, and the tensors that have gradients."""
    query = torch.randn(rows, 1, 32)
    heads = torch.randn(1, 1, rows, 32)
    cu = prefix_sums([rows])
    matrix, gamma = torch.randn(rows, 32), torch.ones(32)
    weight, targets = torch.randn(8, 32), torch.zeros(rows, dtype=torch.int64)
    words = targets.to(torch.int32)
    return (
        ("attention", lambda q: attention(q, q, q, cu, rows), (query,)),
        (
            "aten scaled_dot_product_attention",
            lambda q: functional.scaled_dot_product_attention(q, q, q),
            (heads,),
        ),
        (
            "dropout_add_layer_norm",
            lambda x, g: dropout_add_layer_norm(x, g, g, matrix),
            (matrix, gamma),
        ),
        (
            "aten add, layer_norm",
            lambda x, g: functional.layer_norm(x + matrix, (32,), g, g),
            (matrix, gamma),
        ),
        (
            "linear_cross_entropy",
            lambda h, w: linear_cross_entropy(h, w, words, reduction="sum"),
            (matrix, weight),
        ),
        (
            "aten linear, cross_entropy",
            lambda h, w: functional.cross_entropy(functional.linear(h, w), targets, reduction="sum"),
            (matrix, weight),
        ),
    )


class Nothing:
    """The library, without what its functions do."""

    def __getattr__(self, name):
        if name.endswith("_workspace"):
            return getattr(LIBRARY, name)
        # A function that reads no argument; NULL or not, what it returns is no status.
        function = LIBRARY["rmae_last_error"]
        function.argtypes = [ctypes.c_void_p] * 3
        function.restype = None
        return function


def c_call():
    """A call of the library with a descriptor that is there."""
    desc = _abi.rmae_attention_desc()
    desc.size, desc.version = ctypes.sizeof(desc), desc.VERSION
    handle, pointer, size = device("host"), ctypes.byref(desc), ctypes.byref(ctypes.c_size_t())
    function = LIBRARY.rmae_attention_workspace
    return lambda: function(handle, pointer, size)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, a call of a C function alone {microseconds(c_call(), repeats):.2f} us")
    print(f"{'us a call':36}{'forward':>10}{'and backward':>14}")
    for library, kind in ((LIBRARY, ""), (Nothing(), ", border")):
        arrays.LIBRARY = library
        # Plans keep the functions that they were made with: two rows make new ones.
        for name, call, leaves in operations(2 if kind else 1):
            ours = not name.startswith("aten")
            if not ours and kind:
                continue
            forward = microseconds(lambda c=call, tensors=leaves: c(*tensors), repeats)
            both = microseconds(with_gradient(call, *leaves), repeats)
            print(f"{name + kind:36}{forward:>10.1f}{both:>14.1f}")


if __name__ == "__main__":
    main()
