"""A call of the library on PyTorch's tensors: on the device they are on, on its current stream."""

import ctypes

import torch

from .._library import LIBRARY, check
from .._library import device as open_device
from ..errors import wrong

DTYPES = {
    getattr(torch, name): name
    for name in ("float32", "bfloat16", "float16", "int32", "uint32", "int16", "uint16", "uint8")
}
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


class Arrays:
    """Tensors on the device of the first of them. Memory is of PyTorch's allocator, which keeps what is freed until the stream
    has come past it; a call enqueues its work and waits for nothing."""

    __slots__ = ("device", "memory")

    def __init__(self, name, tensor):
        self.device = device = tensor.device
        if device.type not in ("cpu", "cuda"):
            wrong(name, f"on device {device}", "on a CPU or a CUDA device")

    def look(self, name, tensor):
        if tensor is None:
            wrong(name, "None", "a tensor")
        if tensor.device != self.device:
            wrong(name, f"on device {tensor.device}", f"on {self.device}, as the others")
        dtype = tensor.dtype
        return tensor.shape, DTYPES.get(dtype) or str(dtype).removeprefix("torch.")

    def strides(self, tensor):
        return tensor.stride()

    def descriptor(self, kind):
        return kind()

    def bind(self, call, struct, field, tensor):
        setattr(struct, field, tensor.data_ptr())

    def empty(self, shape, dtype):
        return torch.empty(shape, dtype=BY_NAME[dtype], device=self.device)

    def zeros(self, shape, dtype):
        return torch.zeros(shape, dtype=BY_NAME[dtype], device=self.device)

    def workspace(self, call, function):
        size = ctypes.c_size_t()
        desc = call.desc
        check(getattr(LIBRARY, function)(self._handle(), ctypes.byref(desc), ctypes.byref(size)))
        if size.value:
            self.memory = torch.empty(size.value, dtype=torch.uint8, device=self.device)
            desc.workspace = self.memory.data_ptr()
            desc.workspace_bytes = size.value

    def run(self, call, function):
        device = self.device
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        check(getattr(LIBRARY, function)(self._handle(), stream, ctypes.byref(call.desc)))

    def _handle(self):
        return open_device(f"cuda:{self.device.index}" if self.device.type == "cuda" else "host")


class FakeArrays(Arrays):
    """Tensors without memory, whose sizes may be symbols: shapes and dtypes are checked and made, and nothing runs."""

    __slots__ = ()

    def descriptor(self, kind):
        return _Anything()

    def bind(self, call, struct, field, tensor):
        pass

    def workspace(self, call, function):
        pass

    def run(self, call, function):
        pass


class _Anything:
    """A descriptor that takes any field."""

    def __getattr__(self, name):
        return _Anything()
