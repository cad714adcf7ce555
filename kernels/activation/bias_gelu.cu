// Bias + GELU: output = gelu(input + bias), and d_input = d_output·gelu'(input + bias).
//
// Elementwise: reads and writes each element once (forward 2·bytes, backward 3·bytes an element), bound by
// memory. In bf16 on sm_90 a thread takes 20.5 instructions an element in the forward and 24.7 in the
// backward, all told. GELU is computed again in the backward: cheaper than storing its derivative.
//
// The rows are cut into slabs of equal height. A thread takes the same 16 bytes of the same row of every
// slab: one bias and one division for all of them, and the accesses of neighboring threads are one run of
// memory in every slab. All of a thread's loads are issued before its first arithmetic.
#include "../core/gelu.cuh"
#include "../core/packed.cuh"

namespace retromae {

constexpr uint32_t kBiasGeluThreads = 256;
// Eight loads of 16 bytes a thread in either pass.
constexpr uint32_t kForwardSlabs = 8;
constexpr uint32_t kBackwardSlabs = 4;

// Offset of a thread's 16 bytes within each slab.
template <class T, uint32_t Slabs>
struct SlabOffset {
    uint32_t column;
    uint32_t row;
    uint32_t rows;
    uint32_t slab_rows;
    uint64_t first;
    uint64_t slab_elements;

    RETROMAE_DEVICE SlabOffset of(const BiasGeluParams& params) {
        const uint32_t packs = params.columns / kPackedElements<T>;
        const uint32_t thread = blockIdx.x * kBiasGeluThreads + threadIdx.x;
        const uint32_t row = thread / packs, column = thread % packs * kPackedElements<T>;
        const uint32_t slab_rows = (params.rows + Slabs - 1) / Slabs;
        return {column,
                row,
                params.rows,
                slab_rows,
                static_cast<uint64_t>(row) * params.columns + column,
                static_cast<uint64_t>(slab_rows) * params.columns};
    }

    // False for the threads after the last of a slab.
    RETROMAE_MEMBER bool exists() const { return row < slab_rows; }

    // Calls `body(slab, element)` for every slab that has a row there.
    template <class Body>
    RETROMAE_MEMBER void for_slabs(Body body) const {
        RETROMAE_UNROLL
        for (uint32_t slab = 0; slab < Slabs; ++slab)
            if (row + slab * slab_rows < rows) body(slab, first + slab * slab_elements);
    }
};

template <class T>
RETROMAE_DEVICE void bias_gelu_forward(const BiasGeluParams& params) {
    const auto offset = SlabOffset<T, kForwardSlabs>::of(params);
    if (!offset.exists()) return;
    Packed input[kForwardSlabs];
    offset.for_slabs([&](uint32_t slab, uint64_t element) {
        input[slab] = load_packed(pointer<const T>(params.input) + element);
    });
    float bias[kPackedElements<T>];
    load(pointer<const float>(params.bias) + offset.column, bias);
    offset.for_slabs([&](uint32_t slab, uint64_t element) {
        float x[kPackedElements<T>];
        widen(T{}, input[slab], x);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kPackedElements<T>; ++i) x[i] = gelu(x[i] + bias[i]);
        store(pointer<T>(params.output) + element, x);
    });
}

template <class T>
RETROMAE_DEVICE void bias_gelu_backward(const BiasGeluParams& params) {
    const auto offset = SlabOffset<T, kBackwardSlabs>::of(params);
    if (!offset.exists()) return;
    Packed input[kBackwardSlabs], d_output[kBackwardSlabs];
    offset.for_slabs([&](uint32_t slab, uint64_t element) {
        input[slab] = load_packed(pointer<const T>(params.input) + element);
        d_output[slab] = load_packed(pointer<const T>(params.d_output) + element);
    });
    float bias[kPackedElements<T>];
    load(pointer<const float>(params.bias) + offset.column, bias);
    offset.for_slabs([&](uint32_t slab, uint64_t element) {
        float x[kPackedElements<T>], gradient[kPackedElements<T>];
        widen(T{}, input[slab], x);
        widen(T{}, d_output[slab], gradient);
        RETROMAE_UNROLL
        for (uint32_t i = 0; i < kPackedElements<T>; ++i) gradient[i] *= gelu_derivative(x[i] + bias[i]);
        store(pointer<T>(params.d_input) + element, gradient);
    });
}

// Each thread handles 16 bytes of one row in every slab of rows. Threads are numbered in 32 bits, which is
// enough for 2^32 · slabs · 16 bytes, more than a device has.
template <class T, uint32_t Slabs>
struct BiasGeluLaunch : Launch<kBiasGeluThreads> {
    static Grid grid(const BiasGeluParams& params) {
        const uint64_t threads = ceil_div(params.rows, Slabs) * (params.columns / (16 / sizeof(T)));
        return {ceil_div(threads, kBiasGeluThreads)};
    }
};

RETROMAE_KERNEL(bias_gelu_forward_f32, BiasGeluParams, BiasGeluLaunch<float, kForwardSlabs>) {
    bias_gelu_forward<float>(params);
}
RETROMAE_KERNEL(bias_gelu_forward_bf16, BiasGeluParams, BiasGeluLaunch<bf16, kForwardSlabs>) {
    bias_gelu_forward<bf16>(params);
}
RETROMAE_KERNEL(bias_gelu_backward_f32, BiasGeluParams, BiasGeluLaunch<float, kBackwardSlabs>) {
    bias_gelu_backward<float>(params);
}
RETROMAE_KERNEL(bias_gelu_backward_bf16, BiasGeluParams, BiasGeluLaunch<bf16, kBackwardSlabs>) {
    bias_gelu_backward<bf16>(params);
}

}  // namespace retromae
