/* The numbers that CUDA C++ and Rust share, beside the parameter structs: plain C.
 *
 * `src/common/constants.rs` is generated from this file. */
#pragma once

#include <stdint.h>

/** The label of a token without a loss. */
static const int32_t IGNORE_INDEX = -100;

/** Columns whose dropout one call of Philox decides: one for each output byte. */
static const uint32_t DROPOUT_GROUP = 16;

/** From a dropout stream of a layer to that of the next one. */
static const uint32_t STREAMS_PER_LAYER = 8;

/** The third counter word of Philox: every random decision has a number of its own. */
enum RandomStream : uint32_t {
    /** Dropout after the encoder's embedding LayerNorm. */
    STREAM_ENCODER_EMBEDDING = 0,
    /** Dropout after the LayerNorm of the decoder's query stream. */
    STREAM_DECODER_QUERY = 1,
    /** Dropout after the LayerNorm of the decoder's content stream. */
    STREAM_DECODER_CONTENT = 2,
    /** Dropout of the first layer's attention probabilities; the decoder is one more layer. */
    STREAM_ATTENTION_PROBABILITIES = 8,
    /** Dropout of the output of the first layer's attention block. */
    STREAM_ATTENTION_OUTPUT = 9,
    /** Dropout of the output of the first layer's feed-forward block. */
    STREAM_FEED_FORWARD_OUTPUT = 10,

    /** The initial weights. */
    STREAM_INITIALIZATION = 0x40000000,

    /** The words that the encoder's input loses. */
    STREAM_ENCODER_MASK = 0x80000000,
    /** The words that the `basic` decoder's input loses. */
    STREAM_DECODER_MASK = 0x80000001,
    /** The rows of a sentence's pool of position-specific masks. */
    STREAM_MASK_POOL = 0x80000002,
    /** The pool row that each position uses. */
    STREAM_POOL_ROW = 0x80000003,
    /** The fate of a chosen token of the encoder's input: `[MASK]`, a random id, or itself. */
    STREAM_CORRUPTION = 0x80000004,

    /** The order of an epoch's passages. */
    STREAM_EPOCH_ORDER = 0x80000100,
    /** The passages that are held out. */
    STREAM_HELD_OUT = 0x80000101,
};
