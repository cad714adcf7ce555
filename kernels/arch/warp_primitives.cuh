// Warp shuffles, ballots and the warp barrier (CUDA C++ Programming Guide, "Warp Shuffle Functions").
//
// Every wrapper is for all 32 lanes; a divergent call is an error in the emulator.
#pragma once

#include "../base/kernel.cuh"

namespace retromae {

RETROMAE_DEVICE void warp_barrier(RETROMAE_SITE_ONLY_PARAMETER) {
#ifdef __CUDACC__
    __syncwarp();
#else
    host::warp_collective<char, char>(0, site, [](const char (&)[32], char (&outputs)[32]) {
        for (char& output : outputs) output = 0;
    });
#endif
}

// The value of lane `source`.
RETROMAE_DEVICE uint32_t warp_shuffle(uint32_t value, uint32_t source RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    return __shfl_sync(0xffffffffu, value, static_cast<int>(source));
#else
    struct Input {
        uint32_t value, source;
    };
    return host::warp_collective<Input, uint32_t>(
        Input{value, source}, site, [](const Input(&inputs)[32], uint32_t (&outputs)[32]) {
            for (int lane = 0; lane < 32; ++lane) outputs[lane] = inputs[inputs[lane].source % 32].value;
        });
#endif
}

// Bit `lane` of the result is that lane's `predicate`.
RETROMAE_DEVICE uint32_t warp_ballot(bool predicate RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    return __ballot_sync(0xffffffffu, predicate);
#else
    return host::warp_collective<bool, uint32_t>(predicate, site,
                                                 [](const bool (&inputs)[32], uint32_t (&outputs)[32]) {
                                                     uint32_t bits = 0;
                                                     for (int lane = 0; lane < 32; ++lane)
                                                         bits |= static_cast<uint32_t>(inputs[lane]) << lane;
                                                     for (uint32_t& output : outputs) output = bits;
                                                 });
#endif
}

// Bit `lane` of the result says whether that lane has the same value as this one (PTX ISA, "match.sync").
RETROMAE_DEVICE uint32_t warp_match(uint32_t value RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    return __match_any_sync(0xffffffffu, value);
#else
    return host::warp_collective<uint32_t, uint32_t>(
        value, site, [](const uint32_t (&inputs)[32], uint32_t (&outputs)[32]) {
            for (int lane = 0; lane < 32; ++lane) {
                outputs[lane] = 0;
                for (int other = 0; other < 32; ++other)
                    outputs[lane] |= static_cast<uint32_t>(inputs[other] == inputs[lane]) << other;
            }
        });
#endif
}

// The values of the four lanes of this lane's quad, in order.
RETROMAE_DEVICE void quad_gather(uint32_t value, uint32_t (&values)[4] RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = __shfl_sync(0xffffffffu, value, i, 4);
#else
    struct Lane {
        uint32_t value;
        uint32_t* values;
    };
    Lane lane{value, values};
    host::warp_together(lane, site, [](Lane* const* lanes) {
        for (int i = 0; i < 32; ++i)
            for (int j = 0; j < 4; ++j) lanes[i]->values[j] = lanes[i / 4 * 4 + j]->value;
    });
#endif
}

// Transposes the 32 × 32 bits of the warp, a row a lane: bit i of lane j becomes bit j of lane i.
RETROMAE_DEVICE uint32_t warp_transpose_bits(uint32_t bits RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
    // Swaps the blocks off the diagonal, from halves down to single bits.
    const uint32_t lane = threadIdx.x % 32;
    uint32_t lower = 0x0000ffffu;
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, bits, distance);
        bits = lane & distance ? (bits & ~lower) | (other >> distance & lower)
                               : (bits & lower) | (other << distance & ~lower);
        lower ^= lower << (distance / 2);
    }
    return bits;
#else
    return host::warp_collective<uint32_t, uint32_t>(
        bits, site, [](const uint32_t (&inputs)[32], uint32_t (&outputs)[32]) {
            uint32_t rows[32];
            for (int i = 0; i < 32; ++i) rows[i] = inputs[i];
            uint32_t lower = 0x0000ffffu;
            for (int distance = 16; distance > 0; distance /= 2) {
                for (int i = 0; i < 32; ++i) {
                    if (i & distance) continue;
                    const uint32_t swapped = (rows[i] >> distance ^ rows[i + distance]) & lower;
                    rows[i] ^= swapped << distance;
                    rows[i + distance] ^= swapped;
                }
                lower ^= lower << (distance / 2);
            }
            for (int i = 0; i < 32; ++i) outputs[i] = rows[i];
        });
#endif
}

struct Sum {
    RETROMAE_DEVICE float apply(float a, float b) { return a + b; }
};
struct Maximum {
    RETROMAE_DEVICE float apply(float a, float b) { return a > b ? a : b; }
};

// Reduces each of `Count` values over aligned groups of `Width` lanes by a butterfly of shuffles; every lane
// gets its group's result. The emulation applies the same butterfly, in one collective instead of
// Count·log2(Width).
template <class Operation, int Width, int Count>
RETROMAE_DEVICE void warp_butterfly(float (&values)[Count] RETROMAE_SITE_PARAMETER) {
#ifdef __CUDACC__
#pragma unroll
    for (int distance = Width / 2; distance > 0; distance /= 2) {
#pragma unroll
        for (int i = 0; i < Count; ++i)
            values[i] = Operation::apply(values[i], __shfl_xor_sync(0xffffffffu, values[i], distance));
    }
#else
    struct Values {
        float values[Count];
    };
    Values mine;
    for (int i = 0; i < Count; ++i) mine.values[i] = values[i];
    const Values result = host::warp_collective<Values, Values>(
        mine, site, [](const Values(&inputs)[32], Values(&outputs)[32]) {
            float current[Count][32], next[Count][32];
            for (int i = 0; i < Count; ++i)
                for (int lane = 0; lane < 32; ++lane) current[i][lane] = inputs[lane].values[i];
            for (int distance = Width / 2; distance > 0; distance /= 2) {
                for (int i = 0; i < Count; ++i) {
                    for (int lane = 0; lane < 32; ++lane)
                        next[i][lane] = Operation::apply(current[i][lane], current[i][lane ^ distance]);
                    for (int lane = 0; lane < 32; ++lane) current[i][lane] = next[i][lane];
                }
            }
            for (int i = 0; i < Count; ++i)
                for (int lane = 0; lane < 32; ++lane) outputs[lane].values[i] = current[i][lane];
        });
    for (int i = 0; i < Count; ++i) values[i] = result.values[i];
#endif
}

}  // namespace retromae
