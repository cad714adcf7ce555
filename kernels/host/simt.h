// The SIMT host: what lets a C++ compiler accept and run a CUDA kernel.
//
// Each thread of a block is a coroutine that the scheduler (src/device/host) resumes on one core. A barrier
// parks a thread until the whole block arrives, a warp collective until all 32 lanes arrive; between them a
// thread runs undisturbed.
#pragma once

#include <math.h>
#include <string.h>

#include "context.h"

#define RETROMAE_DEVICE static inline __attribute__((always_inline))
#define RETROMAE_MEMBER inline __attribute__((always_inline))
#define RETROMAE_UNROLL
#define RETROMAE_NO_UNROLL
#define __restrict__ __restrict

#define RETROMAE_SITE_PARAMETER , ::retromae::host::Site site = {__builtin_FILE(), __builtin_LINE()}
#define RETROMAE_SITE_ONLY_PARAMETER ::retromae::host::Site site = {__builtin_FILE(), __builtin_LINE()}
#define RETROMAE_SITE_ARGUMENT , site

// `RETROMAE_WHOLE(pack)` stands where a pack has been loaded or is to be stored. Compilers take a small
// struct apart before they instrument its accesses; once it must exist as a whole, its copy stays the one
// access that it is on the GPU.
#ifdef RETROMAE_SANITIZE
#define RETROMAE_SANITIZED 1
#define RETROMAE_WHOLE(pack) asm volatile("" : "+m"(pack))
#else
#define RETROMAE_SANITIZED 0
#define RETROMAE_WHOLE(pack) (void)0
#endif

#define threadIdx (retromae_context.thread_idx)
#define blockIdx (retromae_context.block_idx)
#define blockDim (retromae_context.block_dim)
#define gridDim (retromae_context.grid_dim)
#define __syncthreads() (void)retromae_simt_barrier(__FILE__, __LINE__, false)

namespace retromae {
namespace host {

struct Site {
    const char* file;
    int line;
};

struct Registration {
    explicit Registration(RetromaeHostKernel* kernel) { retromae_host_register(kernel); }
};

// Parks the lane until all 32 have brought their `lane`; the last one to arrive calls `combine` with all of
// them, each where it lies on its thread's stack, to be read and written in place.
template <class Lane, class Combine>
static inline void warp_together(Lane& lane, Site site, Combine) {
    RetromaeWarpCall call;
    call.combine = [](const void* const*, void* const* lanes) {
        Combine{}(reinterpret_cast<Lane* const*>(lanes));
    };
    call.input = nullptr;
    call.output = &lane;
    call.file = site.file;
    call.line = static_cast<uint32_t>(site.line);
    retromae_simt_warp(&call);
}

// The same with copies: `combine(inputs, outputs)`.
template <class Input, class Output, class Combine>
static inline Output warp_collective(const Input& input, Site site, Combine) {
    Output output;
    RetromaeWarpCall call;
    call.combine = [](const void* const* inputs, void* const* outputs) {
        Input gathered[32];
        Output results[32];
        for (int lane = 0; lane < 32; ++lane) gathered[lane] = *static_cast<const Input*>(inputs[lane]);
        Combine{}(gathered, results);
        for (int lane = 0; lane < 32; ++lane) *static_cast<Output*>(outputs[lane]) = results[lane];
    };
    call.input = &input;
    call.output = &output;
    call.file = site.file;
    call.line = static_cast<uint32_t>(site.line);
    retromae_simt_warp(&call);
    return output;
}

// The entry of a kernel in the table, with the launch that its type declares.
template <class Params, class Launch>
static RetromaeHostKernel kernel(const char* name, const char* file, uint32_t line,
                                 void (*run)(const void*)) {
    const auto grid = [](const void* params, uint64_t* blocks) {
        const auto grid = Launch::grid(*static_cast<const Params*>(params));
        blocks[0] = grid.x;
        blocks[1] = grid.y;
        blocks[2] = grid.z;
    };
    const auto shared_bytes = [](const void* params) -> uint64_t {
        return Launch::shared_bytes(*static_cast<const Params*>(params));
    };
    return {name,
            file,
            line,
            static_cast<uint32_t>(sizeof(Params)),
            Launch::kThreads,
            RETROMAE_SANITIZED,
            grid,
            shared_bytes,
            run,
            nullptr};
}

}  // namespace host
}  // namespace retromae

#define RETROMAE_KERNEL(name, Params, ...)                                                   \
    static void name##_body([[maybe_unused]] const Params& params);                          \
    static RetromaeHostKernel name##_kernel = ::retromae::host::kernel<Params, __VA_ARGS__>( \
        #name, __FILE__, __LINE__,                                                           \
        [](const void* params) { name##_body(*static_cast<const Params*>(params)); });       \
    static const ::retromae::host::Registration name##_registration(&name##_kernel);         \
    static void name##_body([[maybe_unused]] const Params& params)

// A symbol that the Rust side refers to, so that the linker keeps this object file and its kernels.
extern "C" void RETROMAE_ANCHOR() {}
