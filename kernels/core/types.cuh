// Element types and wide loads.
//
// 16-bit types are bit structs with explicit conversions that round once, to nearest even, as the hardware
// does: no operator hides a conversion, and the host computes the very same bits.
#pragma once

#include "../base/kernel.cuh"
#include "../arch/convert.cuh"

namespace retromae {

RETROMAE_DEVICE void round_to(float value, float& result) {
    result = value;
}
RETROMAE_DEVICE void round_to(float value, bf16& result) {
    result = bf16_from_float(value);
}

RETROMAE_DEVICE void round_to(float value, f16& result) {
    result = f16_from_float(value);
}

template <class T>
RETROMAE_DEVICE T from_float(float value) {
    T result;
    round_to(value, result);
    return result;
}

RETROMAE_DEVICE float to_float(float value) {
    return value;
}
RETROMAE_DEVICE float to_float(bf16 value) {
    return bf16_to_float(value);
}
RETROMAE_DEVICE float to_float(f16 value) {
    return f16_to_float(value);
}

// Two values rounded into one register, `low` in its lower half; the first argument names the type.
RETROMAE_DEVICE uint32_t rounded_pair(bf16, float low, float high) {
    return bf16_pair(low, high);
}
RETROMAE_DEVICE uint32_t rounded_pair(f16, float low, float high) {
    return f16_pair(low, high);
}

// `Count` elements that are moved as one 16-byte access where they fill one.
template <class T, int Count>
struct alignas(sizeof(T) * Count <= 16 ? sizeof(T) * Count : 16) Pack {
    T values[Count];
};

// Copies a pack by one access: of one that was put together from elements, nvcc would store the elements.
template <class P>
RETROMAE_DEVICE void store_whole(P* destination, const P& pack) {
#ifdef __CUDACC__
    if constexpr (sizeof(P) == sizeof(uint4)) {
        uint4 words;
        memcpy(&words, &pack, sizeof words);
        *reinterpret_cast<uint4*>(destination) = words;
        return;
    }
#endif
    *destination = pack;
}

// Loads `Count` consecutive elements as floats; `source` is aligned to the pack.
template <int Count, class T>
RETROMAE_DEVICE void load(const T* source, float (&values)[Count]) {
    Pack<T, Count> pack = *reinterpret_cast<const Pack<T, Count>*>(source);
    RETROMAE_WHOLE(pack);
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) values[i] = to_float(pack.values[i]);
}

// Stores `Count` floats as consecutive elements, each rounded once.
template <int Count, class T>
RETROMAE_DEVICE void store(T* destination, const float (&values)[Count]) {
    Pack<T, Count> pack;
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) pack.values[i] = from_float<T>(values[i]);
    RETROMAE_WHOLE(pack);
    store_whole(reinterpret_cast<Pack<T, Count>*>(destination), pack);
}

// Sets every element of an array of any rank.
RETROMAE_DEVICE void fill(float& element, float value) {
    element = value;
}
template <class Element, int Count>
RETROMAE_DEVICE void fill(Element (&elements)[Count], float value) {
    RETROMAE_UNROLL
    for (int i = 0; i < Count; ++i) fill(elements[i], value);
}

// Device addresses travel through the params structs as integers.
template <class T>
RETROMAE_DEVICE T* pointer(DevicePointer address) {
    return reinterpret_cast<T*>(address);
}

// Element `index` of an optional vector, or `otherwise`.
RETROMAE_DEVICE float element_or(DevicePointer vector, uint64_t index, float otherwise) {
    return vector != 0 ? pointer<const float>(vector)[index] : otherwise;
}

// Writes element `index` of an optional vector.
template <class T>
RETROMAE_DEVICE void store_optional(DevicePointer vector, uint64_t index, T value) {
    if (vector != 0) pointer<T>(vector)[index] = value;
}

}  // namespace retromae
