//! Declarations that kernels and Rust share: the output of bindgen for `kernels/constants.h`.
//!
//! Do not edit; run `cargo build --features bindgen`.
#![allow(dead_code, missing_docs, clippy::pedantic, clippy::all)]

#[doc = " The label of a token without a loss."]
pub const IGNORE_INDEX: i32 = -100;
#[doc = " Columns whose dropout one call of Philox decides: one for each output byte."]
pub const DROPOUT_GROUP: u32 = 16;
#[doc = " From a dropout stream of a layer to that of the next one."]
pub const STREAMS_PER_LAYER: u32 = 8;
#[doc = " Dropout after the encoder's embedding LayerNorm."]
pub const STREAM_ENCODER_EMBEDDING: RandomStream = 0;
#[doc = " Dropout after the LayerNorm of the decoder's query stream."]
pub const STREAM_DECODER_QUERY: RandomStream = 1;
#[doc = " Dropout after the LayerNorm of the decoder's content stream."]
pub const STREAM_DECODER_CONTENT: RandomStream = 2;
#[doc = " Dropout of the first layer's attention probabilities; the decoder is one more layer."]
pub const STREAM_ATTENTION_PROBABILITIES: RandomStream = 8;
#[doc = " Dropout of the output of the first layer's attention block."]
pub const STREAM_ATTENTION_OUTPUT: RandomStream = 9;
#[doc = " Dropout of the output of the first layer's feed-forward block."]
pub const STREAM_FEED_FORWARD_OUTPUT: RandomStream = 10;
#[doc = " The initial weights."]
pub const STREAM_INITIALIZATION: RandomStream = 1073741824;
#[doc = " The words that the encoder's input loses."]
pub const STREAM_ENCODER_MASK: RandomStream = 2147483648;
#[doc = " The words that the `basic` decoder's input loses."]
pub const STREAM_DECODER_MASK: RandomStream = 2147483649;
#[doc = " The rows of a sentence's pool of position-specific masks."]
pub const STREAM_MASK_POOL: RandomStream = 2147483650;
#[doc = " The pool row that each position uses."]
pub const STREAM_POOL_ROW: RandomStream = 2147483651;
#[doc = " The fate of a chosen token of the encoder's input: `[MASK]`, a random id, or itself."]
pub const STREAM_CORRUPTION: RandomStream = 2147483652;
#[doc = " The order of an epoch's passages."]
pub const STREAM_EPOCH_ORDER: RandomStream = 2147483904;
#[doc = " The passages that are held out."]
pub const STREAM_HELD_OUT: RandomStream = 2147483905;
#[doc = " The third counter word of Philox: every random decision has a number of its own."]
pub type RandomStream = u32;
