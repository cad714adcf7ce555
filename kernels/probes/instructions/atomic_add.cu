// Twin of atomic additions.
#include "../../arch/atomic_add.cuh"
#include "twins.cuh"

namespace retromae {

// input[thread][2]: which sum, and what is added to it; output: the sums, zeros before.
RETROMAE_KERNEL(twin_atomic_add, ProbeParams, Launch<kTwinThreads>) {
    const uint32_t place = pointer<const uint32_t>(params.input)[2 * twin_index()];
    const float value = pointer<const float>(params.input)[2 * twin_index() + 1];
    atomic_add(pointer<float>(params.output) + place, value);
}

}  // namespace retromae
