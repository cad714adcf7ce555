"""Calls of the library on PyTorch's tensors: on the device they are on, on its current stream.

The operations are followed once for tensors of some shapes, strides and dtypes, which makes a plan: the descriptor without its pointers,
and where those go. Each call with such tensors fills in the pointers.
"""

import ctypes

import torch
from torch import Tensor

from .._call import offset_of
from .._library import LIBRARY, check, workspace_bytes
from .._library import device as open_device
from ..errors import wrong

DTYPES = {
    getattr(torch, name): name
    for name in ("float32", "bfloat16", "float16", "int32", "uint32", "int16", "uint16", "uint8")
}
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


class _Arrays:
    """What is known of tensors without their memory."""

    device = None

    def look(self, name, tensor):
        if tensor is None:
            wrong(name, "None", "a tensor")
        device = tensor.device
        if self.device is None:
            if device.type not in ("cpu", "cuda"):
                wrong(name, f"on device {device}", "on a CPU or a CUDA device")
            self.device = device
            self.device_name = "host" if device.type == "cpu" else f"cuda:{device.index}"
        elif device != self.device:
            wrong(name, f"on device {device}", f"on {self.device}, as the others")
        dtype = tensor.dtype
        return tensor.shape, DTYPES.get(dtype) or str(dtype).removeprefix("torch.")

    def strides(self, tensor):
        return tensor.stride()


class _Shape(tuple):
    """Sizes that may be symbols. Those that have no value, as the number of rows that a condition chooses, are taken for equal to what
    they should be, and looked at when the graph runs."""

    def __ne__(self, other):
        return len(self) != len(other) or any(map(_differ, self, other))

    __hash__ = tuple.__hash__


def _differ(size, other):
    # With sympy, which takes a fifth of a second, and is there when there are symbols.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, statically_known_true

    if statically_known_true(size == other):
        return False
    try:
        return bool(size != other)
    except GuardOnDataDependentSymNode:
        torch._check(size == other)
        return False


class FakeArrays(_Arrays):
    """Tensors without memory, whose sizes may be symbols: shapes and dtypes are checked and made, and nothing runs."""

    def look(self, name, tensor):
        shape, dtype = super().look(name, tensor)
        return _Shape(shape), dtype

    def strides(self, tensor):
        """Those without gaps: the real ones are looked at when the graph runs."""
        strides = [1]
        for size in reversed(tensor.shape[1:]):
            strides.append(strides[-1] * size)
        return tuple(reversed(strides[: tensor.dim()]))

    def descriptor(self, kind):
        return _Anything()

    def bind(self, call, struct, field, tensor):
        pass

    def empty(self, shape, dtype):
        return torch.empty(tuple(shape), dtype=BY_NAME[dtype], device=self.device)

    zeros = empty

    def workspace(self, call, function):
        pass

    def run(self, call, function):
        pass


class _Anything:
    """A descriptor that takes any field."""

    def __getattr__(self, name):
        return _Anything()


class _Output:
    """An array that a plan makes in each call, or the workspace."""

    def __init__(self, make, shape, dtype):
        self.make, self.shape, self.dtype = make, shape, dtype


class Plan(_Arrays):
    """A call of the library. `operation` is followed with the plan in the place of arrays, and returns a tuple of what it made."""

    def __init__(self, operation, inputs):
        # Pointers are words of the descriptor: the place of each, and that of its tensor in the inputs or the outputs.
        self.input_words, self.output_words, self.outputs = [], [], []
        # The same tensor may come twice: here each is another object.
        self.inputs = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
        found = operation(self, *self.inputs)
        self.results = [None if output is None else self.outputs.index(output) for output in found]
        self.inputs = None

    def descriptor(self, kind):
        self.desc = kind()
        return self.desc

    def bind(self, call, struct, field, array):
        word = offset_of(self.desc, struct, field) // ctypes.sizeof(ctypes.c_void_p)
        if isinstance(array, _Output):
            self.output_words.append((word, self.outputs.index(array)))
        else:
            place = next(place for place, value in enumerate(self.inputs) if value is array)
            self.input_words.append((word, place))

    def _output(self, make, shape, dtype):
        output = _Output(make, tuple(shape), BY_NAME[dtype])
        self.outputs.append(output)
        return output

    def empty(self, shape, dtype):
        return self._output(torch.empty, shape, dtype)

    def zeros(self, shape, dtype):
        return self._output(torch.zeros, shape, dtype)

    def workspace(self, call, function):
        size = workspace_bytes(function, self.device_name, self.desc)
        if size:
            self.desc.workspace_bytes = size
            self.bind(call, self.desc, "workspace", self.empty((size,), "uint8"))

    def run(self, call, function):
        self.function = getattr(LIBRARY, function)
        words = ctypes.c_uint64 * (ctypes.sizeof(self.desc) // ctypes.sizeof(ctypes.c_uint64))
        self.words = words.from_buffer_copy(self.desc)
        self.desc = None

    def __call__(self, inputs):
        """Runs the call on tensors that are like those it was made for."""
        device = self.device
        words = type(self.words).from_buffer_copy(self.words)
        for word, place in self.input_words:
            words[word] = inputs[place].data_ptr()
        made = [output.make(output.shape, dtype=output.dtype, device=device) for output in self.outputs]
        for word, place in self.output_words:
            words[word] = made[place].data_ptr()
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        check(self.function(open_device(self.device_name), stream, ctypes.byref(words)))
        # PyTorch keeps the memory of a workspace that is freed here until the stream has come past the call.
        return [None if place is None else made[place] for place in self.results]


class Planned:
    """An operation as the dispatcher calls it."""

    # Lengths differ from batch to batch, and layers of a model are alike.
    PLANS_MAX = 1024

    def __init__(self, operation):
        self.operation = operation
        self.plans = {}

    def __call__(self, *inputs):
        key = []
        for value in inputs:
            if isinstance(value, Tensor):
                key += (value.dtype, value.device, value.shape, value.stride())
            else:
                key.append(value)
        key = tuple(key)
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= self.PLANS_MAX:
                self.plans.clear()
            plan = self.plans[key] = Plan(self.operation, inputs)
        return plan(inputs)
