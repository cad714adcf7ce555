// 16 bytes of elements as they lie in memory: four registers, whatever the type, until they are widened.
#pragma once

#include "types.cuh"

namespace retromae {

using Packed = Pack<uint32_t, 4>;

// The elements of 16 bytes.
template <class T>
constexpr uint32_t kPackedElements = 16 / sizeof(T);

RETROMAE_DEVICE Packed load_packed(const void* source) {
    Packed words = *static_cast<const Packed*>(source);
    RETROMAE_WHOLE(words);
    return words;
}

RETROMAE_DEVICE void store_packed(void* destination, Packed words) {
    RETROMAE_WHOLE(words);
    store_whole(static_cast<Packed*>(destination), words);
}

// The elements as floats; the first argument names their type.
RETROMAE_DEVICE void widen(float, const Packed& words, float (&values)[4]) {
    memcpy(values, words.values, sizeof values);
}

template <class T>
RETROMAE_DEVICE void widen(T, const Packed& words, float (&values)[8]) {
    static_assert(sizeof(T) == 2, "two elements a word");
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = to_float(T{static_cast<uint16_t>(words.values[i])});
        values[2 * i + 1] = to_float(T{static_cast<uint16_t>(words.values[i] >> 16)});
    }
}

// Floats as elements, each rounded once.
RETROMAE_DEVICE Packed narrow(float, const float (&values)[4]) {
    Packed words;
    memcpy(words.values, values, sizeof values);
    return words;
}

template <class T>
RETROMAE_DEVICE Packed narrow(T type, const float (&values)[8]) {
    Packed words;
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) words.values[i] = rounded_pair(type, values[2 * i], values[2 * i + 1]);
    return words;
}

}  // namespace retromae
