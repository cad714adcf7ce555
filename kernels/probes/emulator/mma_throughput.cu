// mma alone, by the emulation and by a naive one: a measure of the emulation.
#include "../../arch/mma.cuh"
#include "../../core/types.cuh"

namespace retromae {

constexpr uint32_t kThroughputThreads = 128;

// Multiplies the same operands `params.count` times. input[thread][20]: the fragments of A [16, 16] and of
// B [16, 64]; output[thread][32]: those of the sums.
template <class T, class Multiply>
RETROMAE_DEVICE void probe_mma(const ProbeParams& params, Multiply multiply) {
    const uint32_t thread = blockIdx.x * kThroughputThreads + threadIdx.x;
    const uint32_t* input = pointer<const uint32_t>(params.input) + 20 * thread;
    uint32_t a[4], b[4][4];
    for (int i = 0; i < 4; ++i) a[i] = input[i];
    for (int i = 0; i < 16; ++i) b[i / 4][i % 4] = input[4 + i];
    float c[8][4] = {};
    for (uint64_t i = 0; i < params.count; ++i) multiply(c, a, b);
    for (int i = 0; i < 32; ++i) pointer<float>(params.output)[32 * thread + i] = c[i / 4][i % 4];
}

// A lane's operands of an mma [16, 8].
template <class T>
struct NaiveLane {
    float* c;
    const uint32_t* a;
    const uint32_t* b;
};

// The matrices are put together from the fragments, multiplied as they are defined, and taken apart.
template <class T>
static void naive_mma_of_warp(NaiveLane<T>* const* lanes) {
    const auto element = [](uint32_t bits, int half) {
        return to_float(T{static_cast<uint16_t>(bits >> (16 * half))});
    };
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4;
        for (int half = 0; half < 2; ++half) {
            for (int r = 0; r < 4; ++r)
                a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + half] = element(lanes[l]->a[r], half);
            for (int r = 0; r < 2; ++r) b[2 * t + 8 * r + half][g] = element(lanes[l]->b[r], half);
            for (int r = 0; r < 2; ++r) c[g + 8 * r][2 * t + half] = lanes[l]->c[2 * r + half];
        }
    }
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column)
            for (int k = 0; k < 16; ++k) c[row][column] = fmaf(a[row][k], b[k][column], c[row][column]);
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) lanes[l]->c[i] = c[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

template <class T>
RETROMAE_DEVICE void naive_mma(float (&c)[8][4], const uint32_t (&a)[4],
                               const uint32_t (&b)[4][4] RETROMAE_SITE_PARAMETER) {
    for (int tile = 0; tile < 8; ++tile) {
        NaiveLane<T> lane{c[tile], a, &b[tile / 2][tile % 2 * 2]};
        host::warp_together(lane, site, [](NaiveLane<T>* const* lanes) { naive_mma_of_warp(lanes); });
    }
}

template <class T>
RETROMAE_DEVICE void probe_mma(const ProbeParams& params) {
    probe_mma<T>(params, [](auto& c, const auto& a, const auto& b) { mma<T, 4>(c, a, b); });
}
template <class T>
RETROMAE_DEVICE void probe_naive_mma(const ProbeParams& params) {
    probe_mma<T>(params, [](auto& c, const auto& a, const auto& b) { naive_mma<T>(c, a, b); });
}

RETROMAE_KERNEL(probe_mma_bf16, ProbeParams, Launch<kThroughputThreads>) {
    probe_mma<bf16>(params);
}
RETROMAE_KERNEL(probe_mma_f16, ProbeParams, Launch<kThroughputThreads>) {
    probe_mma<f16>(params);
}
RETROMAE_KERNEL(probe_naive_mma_bf16, ProbeParams, Launch<kThroughputThreads>) {
    probe_naive_mma<bf16>(params);
}
RETROMAE_KERNEL(probe_naive_mma_f16, ProbeParams, Launch<kThroughputThreads>) {
    probe_naive_mma<f16>(params);
}

}  // namespace retromae
