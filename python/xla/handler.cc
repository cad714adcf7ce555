// The operations of libretromae.so as one custom call of XLA, for retromae.jax.
//
// An attribute holds the bytes of the operation's descriptor as Python filled it in, with sizes and numbers
// and without pointers; others say at which byte of it the address of each operand and of each result
// belongs. So nothing here depends on the operation, and no address is part of a program that JAX keeps for
// another process.
//
// XLA takes a handler if the version of the FFI in the headers that it was compiled with (XLA_FFI_API_MAJOR
// and _MINOR) is between the oldest that this XLA supports, 0.1 as of jaxlib 0.10.2, and its own. The headers
// of jaxlib 0.6.0 are of version 0.1, too, and the oldest with DeviceOrdinal: compiled with them, a handler
// runs in every jaxlib from 0.6.0 on; with later ones, from the first of their version on (0.10.2: 0.3).
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retromae.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Bytes = ffi::Span<const uint8_t>;
using Offsets = ffi::Span<const int64_t>;

constexpr size_t kAlignment = 256;  // of a workspace; ScratchAllocator refuses to promise it

static void* library = nullptr;  // libretromae.so, as the dynamic loader knows it

// Returns a function of the library, null if it has none of this name.
template <class Function>
static Function* find(const std::string& name) {
    return reinterpret_cast<Function*>(dlsym(library, name.c_str()));
}

// Writes the handle of a device, which is opened once.
static rmae_status open(const std::string& name, rmae_device* device) {
    static std::mutex mutex;
    static std::map<std::string, rmae_device> devices;
    const std::lock_guard<std::mutex> lock(mutex);
    rmae_device& opened = devices[name];
    const rmae_status status =
        opened ? RMAE_OK : find<decltype(rmae_device_open)>("rmae_device_open")(name.c_str(), 0, &opened);
    *device = opened;
    return status;
}

// The custom call. `workspace` names the function that tells how much memory `function` needs, whose address
// and size belong at `workspace_at`; it is empty where none is needed. `allocate` returns null if there is no
// memory.
template <class Allocate>
static ffi::Error call(const std::string& device_name, void* stream, Allocate allocate,
                       ffi::RemainingArgs operands, ffi::RemainingRets results, Bytes desc,
                       Offsets operands_at, Offsets results_at, Offsets workspace_at,
                       std::string_view function, std::string_view workspace) {
    using Workspace = rmae_status(rmae_device, const void*, size_t*);
    using Operation = rmae_status(rmae_device, void*, const void*);
    auto* const size = find<Workspace>(std::string(workspace));
    auto* const operation = find<Operation>(std::string(function));
    if (!operation || (!size && workspace.size()))
        return ffi::Error::InvalidArgument("libretromae.so has no function " + std::string(function));

    std::vector<uint8_t> filled(desc.begin(), desc.end());
    const auto set = [&](int64_t at, auto value) { std::memcpy(&filled[at], &value, sizeof(value)); };
    for (size_t i = 0; i < operands.size(); ++i)
        set(operands_at[i], operands.get<ffi::AnyBuffer>(i)->untyped_data());
    for (size_t i = 0; i < results.size(); ++i)
        set(results_at[i], (*results.get<ffi::AnyBuffer>(i))->untyped_data());

    rmae_device device;
    rmae_status status = open(device_name, &device);
    size_t bytes = 0;
    if (status == RMAE_OK && size) status = size(device, filled.data(), &bytes);
    if (status == RMAE_OK && bytes) {
        void* const memory = allocate(bytes + kAlignment);
        if (!memory) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory for a workspace");
        set(workspace_at[0],
            (reinterpret_cast<uintptr_t>(memory) + kAlignment - 1) / kAlignment * kAlignment);
        set(workspace_at[1], bytes);
    }
    if (status == RMAE_OK) status = operation(device, stream, filled.data());
    if (status == RMAE_OK) return ffi::Error::Success();
    return ffi::Error::InvalidArgument(find<decltype(rmae_last_error)>("rmae_last_error")());
}

static constexpr auto call_on_host = [](auto... arguments) {
    std::unique_ptr<uint8_t[]> memory;
    const auto allocate = [&](size_t bytes) {
        memory.reset(new (std::nothrow) uint8_t[bytes]);
        return memory.get();
    };
    return call("host", nullptr, allocate, arguments...);
};

// XLA hands scratch memory out in the order of its stream, so that it may be given back before it has been
// used.
static constexpr auto call_on_cuda = [](void* stream, int32_t ordinal, ffi::ScratchAllocator scratch,
                                        auto... arguments) {
    const auto allocate = [&](size_t bytes) { return scratch.Allocate(bytes).value_or(nullptr); };
    return call("cuda:" + std::to_string(ordinal), stream, allocate, arguments...);
};

template <class Binding>
static auto bind_arguments(Binding binding) {
    return std::move(binding)
        .RemainingArgs()
        .RemainingRets()
        .template Attr<Bytes>("desc")
        .template Attr<Offsets>("operands_at")
        .template Attr<Offsets>("results_at")
        .template Attr<Offsets>("workspace_at")
        .template Attr<std::string_view>("function")
        .template Attr<std::string_view>("workspace");
}

// Tells the library: the handle of dlopen.
extern "C" void retromae_jax_init(void* handle) {
    library = handle;
}

// Neither may become part of a CUDA graph that XLA captures by itself: the first GEMM of a size cannot be
// captured.
XLA_FFI_DEFINE_HANDLER_SYMBOL(retromae_jax_host, call_on_host, bind_arguments(ffi::Ffi::Bind()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(retromae_jax_cuda, call_on_cuda,
                              bind_arguments(ffi::Ffi::Bind()
                                                 .Ctx<ffi::PlatformStream<void*>>()
                                                 .Ctx<ffi::DeviceOrdinal>()
                                                 .Ctx<ffi::ScratchAllocator>()));
