// 16 bytes of elements as they lie in memory: four registers, whatever the type, until they are widened.
#pragma once

#include "types.cuh"

namespace retromae {

using Words = Pack<uint32_t, 4>;

// The elements of 16 bytes.
template <class T>
constexpr uint32_t kWordsElements = 16 / sizeof(T);

RETROMAE_DEVICE Words load_words(const void* source) {
    Words words = *static_cast<const Words*>(source);
    RETROMAE_WHOLE(words);
    return words;
}

// The elements as floats; the first argument names their type.
RETROMAE_DEVICE void widen(float, const Words& words, float (&values)[4]) {
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) memcpy(&values[i], &words.values[i], sizeof(float));
}

template <class T>
RETROMAE_DEVICE void widen(T, const Words& words, float (&values)[8]) {
    static_assert(sizeof(T) == 2, "two elements a word");
    RETROMAE_UNROLL
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = to_float(T{static_cast<uint16_t>(words.values[i])});
        values[2 * i + 1] = to_float(T{static_cast<uint16_t>(words.values[i] >> 16)});
    }
}

}  // namespace retromae
