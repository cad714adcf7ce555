"""Every argument of every NumPy function, replaced by what it must not be: the exception, and what it says."""

import numpy as np
import pytest
from calls import CALLS, f32, get, paths, replaced

import retromae
import retromae.numpy as rn
from retromae import InvalidArgument, Mask, Unsupported

HUGE = 2**70
NOT_CONTIGUOUS = ("not contiguous", "of strides [", "prefix sums of lengths", "offsets is [")


def misaligned(array):
    """A copy that begins a byte after a multiple of its alignment."""
    memory = np.empty(array.nbytes + 65, np.uint8)
    start = -memory.ctypes.data % 64 + 1
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def bad_arrays(array):
    """What an argument must not be in place of an array, with what is said, or several of which one is."""
    yield array.tolist(), "a list; it should be a NumPy array"
    yield np.ma.masked_array(array), "a MaskedArray; it should be a NumPy array"
    yield array.astype(complex), "of dtype complex128; it should be"
    yield array.astype(np.float64), "of dtype float64; it should be"
    yield array.astype(str), "of dtype str"
    yield array.astype(object), "of dtype object; it should be"
    yield array.astype(array.dtype.newbyteorder()), "in another byte order; it should be"
    yield array[None], "of shape [1, "
    yield array.reshape(-1)[:1].reshape(()), "of shape []"
    yield misaligned(array), "multiple of "
    if array.size > 1:
        yield np.repeat(array, 2, axis=-1)[..., ::2], NOT_CONTIGUOUS
        yield array[::-1], NOT_CONTIGUOUS
        yield np.broadcast_to(array[:1], array.shape), NOT_CONTIGUOUS


# Wrong in place of integers and of other numbers.
BAD_INTEGERS = ["1", None, 1.5, True, float("nan"), HUGE, -HUGE, [1]]
BAD_NUMBERS = ["1", None, True, 1j, 10**400, [1.0], float("nan"), float("inf"), -1.0]
# Values in the place of structures.
BAD_STRUCTURES = ["abc", 5, (1, 2), retromae.CountLimit]


def bad_values(value):
    """What an argument must not be, with a part of what is said, or several of which one is."""
    if isinstance(value, np.ndarray):
        yield from bad_arrays(value)
    elif isinstance(value, bool):
        yield from ((bad, "it should be True or False") for bad in (None, "yes", 1, np.ones(2)))
    elif isinstance(value, int):
        yield from ((bad, "it should be ") for bad in BAD_INTEGERS)
    elif isinstance(value, float):
        yield from ((bad, "it should be ") for bad in BAD_NUMBERS)
    elif hasattr(value, "_asdict"):
        yield from ((bad, f"it should be a retromae.{type(value).__name__}") for bad in BAD_STRUCTURES)


def is_unread(name, path):
    """Fields of a mask that its kind does not read, and what a forward result is not read of."""
    if name.startswith("attention") and path[0] == "mask" and len(path) > 1:
        read = {
            "pool": ("kind", "flags", "bits", "offsets", "rows"),
            "generated": (
                "kind",
                "flags",
                "rng",
                "sentence_indices",
                "word_starts",
                "pool_rows_max",
                "ratio",
                "cap",
            ),
            "permutation": ("kind", "flags", "order"),
        }
        return path[1] not in read.get(name.split()[1], ("kind", "flags", "left", "right"))
    return path == ("forward", "output")


def every_argument():
    """Each call and each place of its arguments."""
    found = []
    for name, (_, arguments) in CALLS.items():
        right = arguments()
        found += [(name, path) for path in paths(right) if not is_unread(name, path)]
    return [pytest.param(*place, id=f"{place[0]} {'.'.join(place[1])}") for place in found]


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right(name):
    function, arguments = CALLS[name]
    function(**arguments())


@pytest.mark.parametrize("name, path", every_argument())
def test_bad_arguments(name, path):
    function, arguments = CALLS[name]
    right = arguments()
    for bad, said in bad_values(get(right, path)):
        with pytest.raises(InvalidArgument) as raised:
            function(**replaced(right, path, bad))
        text = str(raised.value)
        named = text.split(" is ")[0].split(".")[-1]
        # The library has shorter names for some.
        assert path[-1].endswith(named) and "; it should be " in text, text
        assert any(part in text for part in ([said] if isinstance(said, str) else said)), text


# Call, place, value, exception, and what is said.
OTHERS = [
    ("attention window", "query", None, InvalidArgument, "query is a NoneType"),
    (
        "attention window",
        "key",
        f32(9, 2, 33),
        InvalidArgument,
        "query is of shape [9, 2, 32]; it should be [9, 2, 33]",
    ),
    (
        "attention window",
        "value",
        f32(9, 3, 32),
        InvalidArgument,
        "value is of shape [9, 3, 32]; it should be [9, 2, 32]",
    ),
    (
        "attention window",
        "value",
        f32(9, 2, 32).astype(np.float16),
        InvalidArgument,
        "value is of dtype float16",
    ),
    ("attention window", "cu_seqlens", np.array([], np.int32), InvalidArgument, "cu_seqlens is of shape [0]"),
    (
        "attention window",
        "cu_seqlens",
        np.array([0, 3, 2], np.int32),
        InvalidArgument,
        "cu_seqlens is [0 3 2]",
    ),
    (
        "attention window",
        "cu_seqlens",
        np.array([1, 3, 9], np.int32),
        InvalidArgument,
        "cu_seqlens is [1 3 9]",
    ),
    ("attention window", "cu_seqlens", np.array([0, 99], np.int32), InvalidArgument, "from 0 to at most 9"),
    ("attention window", "mask", Mask(kind=99), InvalidArgument, "mask.kind is 99"),
    ("attention window", "mask", Mask(flags=2), InvalidArgument, "mask.flags is 0x2"),
    ("attention window", "scale", -1, InvalidArgument, "scale is -1"),
    ("attention window", "dropout.rate", 1.0, InvalidArgument, "dropout.rate is 1; it should be in [0, 1)"),
    (
        "attention pool",
        "mask.bits",
        np.ones(3, np.uint32),
        InvalidArgument,
        "within the 3 words of the mask bits",
    ),
    (
        "attention pool",
        "mask.rows",
        np.full(9, 7, np.uint16),
        InvalidArgument,
        "mask.rows is 7 in sentence 0; it should be below 3",
    ),
    ("attention pool", "mask.rows", np.zeros(8, np.uint16), InvalidArgument, "mask.rows is of shape [8]"),
    ("attention pool", "mask.rows", None, InvalidArgument, "mask.rows is None"),
    (
        "attention generated",
        "mask.ratio",
        1.5,
        InvalidArgument,
        "mask.ratio is 1.5; it should be a number from 0 to 1",
    ),
    ("attention generated", "mask.pool_rows_max", 0, InvalidArgument, "an integer from 1 to 65536"),
    (
        "attention queries",
        "queries.max_seqlen",
        3,
        InvalidArgument,
        "queries.cu_seqlens is 2 to 6 in sentence 2",
    ),
    (
        "attention queries",
        "queries.positions",
        np.full(6, 9, np.int32),
        InvalidArgument,
        "queries.positions is up to 9",
    ),
    ("attention queries", "queries.cu_seqlens", np.array([0, 6], np.int32), InvalidArgument, "of shape [2]"),
    (
        "linear_cross_entropy",
        "hidden",
        f32(9, 31),
        InvalidArgument,
        "weight is of shape [40, 32]; it should be [V, 31]",
    ),
    (
        "linear_cross_entropy",
        "targets",
        np.arange(9),
        InvalidArgument,
        "targets is of dtype int64; it should be int32",
    ),
    ("linear_cross_entropy", "label_smoothing", 1.0, InvalidArgument, "label_smoothing is 1"),
    ("linear_cross_entropy", "z_loss", -0.1, InvalidArgument, "z_loss is -0.1"),
    ("linear_cross_entropy", "fused", True, Unsupported, "algorithm is Fused; it should be Library"),
    ("bag_of_words_loss", "fused", True, Unsupported, "algorithm is Fused; it should be Library"),
    ("bag_of_words_loss", "bags", None, InvalidArgument, "bags is a NoneType; it should be a retromae.Bags"),
    (
        "bag_of_words_loss",
        "first_position",
        -1,
        InvalidArgument,
        "first_position is -1; it should be an integer from 0 to",
    ),
    ("dropout_add_layer_norm", "eps", 0.0, InvalidArgument, "eps is 0"),
    ("dropout_add_layer_norm_backward", "forward", None, InvalidArgument, "forward is a NoneType"),
    (
        "draw_masks",
        "pool.words",
        8,
        InvalidArgument,
        "pool.words is 8; it should be 7, the last of the offsets",
    ),
    (
        "draw_masks",
        "encoder.labeled",
        2**31 - 1,
        InvalidArgument,
        "encoder.labeled is 2147483647; it should be 4",
    ),
    (
        "draw_masks",
        "encoder.offsets",
        np.array([0, 2, 2, 4], np.int32),
        InvalidArgument,
        "it should be [0 1 1 4]",
    ),
    (
        "draw_masks",
        "encoder.replacement.mask_id",
        1000,
        InvalidArgument,
        "encoder.replacement.mask_id is 1000",
    ),
    ("draw_masks", "encoder.replacement.mask_share", 0.95, InvalidArgument, "of shares 0.95 and 0.1"),
    ("prefix_sums", "lengths", [3, -1], InvalidArgument, "at least 0 each"),
    ("prefix_sums", "lengths", [2**30, 2**30], InvalidArgument, "below 2^31 together"),
    ("prefix_sums", "lengths", ["a"], InvalidArgument, "lengths is ['a']"),
    ("prefix_sums", "lengths", None, InvalidArgument, "lengths is None"),
    ("pool_offsets", "lengths", [2.5], InvalidArgument, "lengths is [2.5]"),
    ("pool_offsets", "rows_max", 65537, InvalidArgument, "rows_max is 65537"),
    (
        "rng_state",
        "seed",
        2**64,
        InvalidArgument,
        "seed is 18446744073709551616; it should be an integer from",
    ),
    ("rng_state", "step", 2**32, InvalidArgument, "step is 4294967296"),
    ("mask_bits", "visible", 5, InvalidArgument, "visible is a int"),
    ("mask_bits", "visible", [np.ones((2, 3), bool)], InvalidArgument, "visible[0] is of shape [2, 3]"),
    ("mask_bits", "visible", [np.ones((2, 2))], InvalidArgument, "visible[0] is a ndarray of float64"),
    ("mask_bits", "visible", [[True]], InvalidArgument, "visible[0] is a list"),
]


@pytest.mark.parametrize("name, place, bad, kind, said", OTHERS)
def test_other_bad_arguments(name, place, bad, kind, said):
    function, arguments = CALLS[name]
    with pytest.raises(kind) as raised:
        function(**replaced(arguments(), tuple(place.split(".")), bad))
    assert said in str(raised.value) and type(raised.value) is kind


def test_sizes_that_no_kernel_was_built_for():
    with pytest.raises(Unsupported, match="head_dim is 40"):
        rn.attention(*[f32(9, 2, 40)] * 3, rn.prefix_sums([9]))
    with pytest.raises(Unsupported, match="it should be of a positive multiple of 8 columns"):
        rn.dropout_add_layer_norm(f32(9, 33), f32(33), f32(33))


def test_exceptions_are_those_of_python_too():
    assert issubclass(InvalidArgument, ValueError) and issubclass(Unsupported, NotImplementedError)
    assert issubclass(InvalidArgument, retromae.Error) and issubclass(retromae.OutOfMemory, MemoryError)
    with pytest.raises(retromae.Error) as raised:
        rn.attention(*[f32(9, 2, 40)] * 3, rn.prefix_sums([9]))
    assert raised.value.status == 2000


def test_arrays_that_are_only_read():
    """Inputs need not be writable, and stay as they are."""
    for function, arguments in CALLS.values():
        right = arguments()
        arrays = [get(right, path) for path in paths(right) if isinstance(get(right, path), np.ndarray)]
        before = [array.copy() for array in arrays]
        for array in arrays:
            array.setflags(write=False)
        function(**right)
        assert all(np.array_equal(*pair) for pair in zip(arrays, before, strict=True))


def test_integers_and_numbers_of_numpy():
    function, arguments = CALLS["draw_masks"]
    right = arguments()
    other = replaced(right, ("pool", "words"), np.int64(right["pool"].words))
    assert np.array_equal(function(**other).bits, function(**right).bits)
    function, arguments = CALLS["dropout_add_layer_norm"]
    function(**(arguments() | {"eps": np.float32(1e-5)}))


def test_no_memory():
    """An array that is too large is an exception, not the end of the process."""
    empty = np.empty((2**45, 2, 0), np.float32)
    with pytest.raises(retromae.Error):
        rn.attention(empty, empty, empty, np.array([0, 9], np.int32))
