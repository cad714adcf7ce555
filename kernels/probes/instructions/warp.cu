// Twins of the collectives of a warp and of a block.
#include "../../arch/block.cuh"
#include "../../arch/warp_primitives.cuh"
#include "../../core/shared_memory.cuh"
#include "twins.cuh"

namespace retromae {

// output[thread][3][32]: from lane s, from lane ^ s, and from lane + s, which wraps, for every s.
RETROMAE_KERNEL(twin_warp_shuffle, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t value = pointer<const uint32_t>(params.input)[twin_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 96 * twin_index();
    for (uint32_t s = 0; s < 32; ++s) {
        output[s] = warp_shuffle(value, s);
        output[32 + s] = warp_shuffle(value, lane ^ s);
        output[64 + s] = warp_shuffle(value, lane + s);
    }
}

// output[thread][32]: the votes on each bit of the lanes' words.
RETROMAE_KERNEL(twin_warp_ballot, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[twin_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * twin_index();
    for (uint32_t bit = 0; bit < 32; ++bit) output[bit] = warp_ballot((word >> bit & 1u) != 0);
}

// output[thread][32]: the lanes with the same lowest bits, of each number of them from 1 to 32.
RETROMAE_KERNEL(twin_warp_match, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[twin_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * twin_index();
    for (uint32_t bits = 1; bits <= 32; ++bits) output[bits - 1] = warp_match(word << (32 - bits));
}

// output[thread][32]: what each lane of the warp wrote to shared memory, a round for each distance.
RETROMAE_KERNEL(twin_warp_barrier, ProbeParams, Launch<kTwinThreads>) {
    SharedMemory memory = SharedMemory::begin();
    uint32_t* words = memory.take<uint32_t>(kTwinThreads);
    const uint32_t thread = threadIdx.x, lane = thread % 32;
    const uint32_t value = pointer<const uint32_t>(params.input)[twin_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * twin_index();
    for (uint32_t distance = 0; distance < 32; ++distance) {
        words[thread] = value + distance;
        warp_barrier();
        output[distance] = words[thread - lane + (lane + distance) % 32];
        warp_barrier();
    }
}

// output[thread][32]: whether any thread of the block has each bit.
RETROMAE_KERNEL(twin_block_any, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t word = pointer<const uint32_t>(params.input)[twin_index()];
    uint32_t* output = pointer<uint32_t>(params.output) + 32 * twin_index();
    for (uint32_t bit = 0; bit < 32; ++bit) output[bit] = block_any((word >> bit & 1u) != 0) ? 1 : 0;
}

// output[thread][4].
RETROMAE_KERNEL(twin_quad_gather, ProbeParams, Launch<kTwinThreads>) {
    uint32_t values[4];
    quad_gather(pointer<const uint32_t>(params.input)[twin_index()], values);
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) pointer<uint32_t>(params.output)[4 * twin_index() + i] = values[i];
}

// output[thread][2]: transposed once, and once more.
RETROMAE_KERNEL(twin_warp_transpose_bits, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t once = warp_transpose_bits(pointer<const uint32_t>(params.input)[twin_index()]);
    uint32_t* output = pointer<uint32_t>(params.output) + 2 * twin_index();
    output[0] = once;
    output[1] = warp_transpose_bits(once);
}

// For two consecutive values.
RETROMAE_KERNEL(twin_sum, ProbeParams, Launch<kTwinThreads>) {
    const float* pair = pointer<const float>(params.input) + 2 * twin_index();
    pointer<float>(params.output)[twin_index()] = Sum::apply(pair[0], pair[1]);
}

RETROMAE_KERNEL(twin_maximum, ProbeParams, Launch<kTwinThreads>) {
    const float* pair = pointer<const float>(params.input) + 2 * twin_index();
    pointer<float>(params.output)[twin_index()] = Maximum::apply(pair[0], pair[1]);
}

// Reduces `input[3]` over groups of `Width` lanes into `output[4]`: the first value alone, then all three.
template <class Operation, int Width>
RETROMAE_DEVICE void twin_reduce(const float* input, float* output) {
    float one[1] = {input[0]};
    float three[3] = {input[0], input[1], input[2]};
    warp_butterfly<Operation, Width>(one);
    warp_butterfly<Operation, Width>(three);
    output[0] = one[0];
    RETROMAE_UNROLL
    for (int i = 0; i < 3; ++i) output[1 + i] = three[i];
}

// output[thread][5][4]: over 2, 4, 8, 16 and 32 lanes.
template <class Operation>
RETROMAE_DEVICE void twin_reduce_every_width(const ProbeParams& params) {
    const float* input = pointer<const float>(params.input) + 3 * twin_index();
    float* output = pointer<float>(params.output) + 20 * twin_index();
    twin_reduce<Operation, 2>(input, output);
    twin_reduce<Operation, 4>(input, output + 4);
    twin_reduce<Operation, 8>(input, output + 8);
    twin_reduce<Operation, 16>(input, output + 12);
    twin_reduce<Operation, 32>(input, output + 16);
}

RETROMAE_KERNEL(twin_warp_butterfly_sum, ProbeParams, Launch<kTwinThreads>) {
    twin_reduce_every_width<Sum>(params);
}

RETROMAE_KERNEL(twin_warp_butterfly_maximum, ProbeParams, Launch<kTwinThreads>) {
    twin_reduce_every_width<Maximum>(params);
}

}  // namespace retromae
