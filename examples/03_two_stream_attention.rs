//! Two-stream attention of RetroMAE's enhanced decoding (arXiv 2205.12035, section 3.3): a query knows its position and the sentence's vector, keys
//! and values are the tokens, and each query sees a sample of its own of them, never itself. Compared with the f64 reference, in the CPU emulator.
//!
//!     cargo run --release --example 03_two_stream_attention

use retromae::device::Device;
use retromae::model::PoolRows;
use retromae::ops::attention::{self, Attention, Mask};
use retromae::ops::masks::{MaskCountLimit, word_start_bits};
use retromae::ops::{PackedBatch, rng_state};
use retromae::reference::{attention as reference, mask};

const LENGTH: usize = 12;
const COLUMNS: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vector: Vec<f32> = (0..COLUMNS).map(|column| (0.3 * column as f32).cos()).collect();
    let position = |i: usize| (0.1 * (i / COLUMNS * (i % COLUMNS)) as f32).sin();
    let query: Vec<f32> = (0..LENGTH * COLUMNS).map(|i| position(i) + vector[i % COLUMNS]).collect();
    let content: Vec<f32> = (0..LENGTH * COLUMNS).map(|i| (0.7 * i as f32).sin()).collect();

    let device = Device::host()?;
    let batch = PackedBatch::new(&device, &[LENGTH])?;
    // Each query has one of four masks, each of which hides half of the words; the kernel samples those that `ops::masks` would store.
    let (seed, step, pool_rows_max, count_limit) = (1, 1, 4, MaskCountLimit::of(0.5));
    let (rng, indices) = (device.upload(&rng_state(seed, step))?, device.upload(&[0u32])?);
    let word_starts = device.upload(&word_start_bits(&[true; LENGTH]))?;
    let (rng, sentence_indices, word_starts) = (rng.view(), indices.view(), word_starts.view());
    let mask = Mask::Generated { rng, sentence_indices, word_starts, pool_rows_max, count_limit };

    let (query_buffer, content_buffer) = (device.upload(&query)?, device.upload(&content)?);
    let (mut output, mut log_sum_exp) = (device.zeros::<f32>(LENGTH * COLUMNS)?, device.zeros(LENGTH)?);
    let forward = attention::Forward {
        attention: Attention::new(batch.view(), 1, COLUMNS).mask(mask),
        query: query_buffer.matrix(LENGTH, COLUMNS)?,
        key: content_buffer.matrix(LENGTH, COLUMNS)?,
        value: content_buffer.matrix(LENGTH, COLUMNS)?,
        output: output.matrix_mut(LENGTH, COLUMNS)?,
        log_sum_exp: log_sum_exp.view_mut(),
    };
    attention::forward(&device.stream(), forward)?;

    let sentence = mask::MaskedSentence { index: 0, word_starts: &[true; LENGTH] };
    let half = mask::MaskCountLimit { ratio: 0.5, cap: None };
    let pool = mask::mask_pool(seed, step, &[sentence], half, PoolRows::AtMost(pool_rows_max));
    let exact = reference::Attention {
        mask: reference::Mask::Pool(&pool),
        ..reference::Attention::new(&[0, LENGTH as i32], 1, COLUMNS)
    };
    let [query, content] =
        [query, content].map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
    let expected = reference::forward(&exact, &query, &content, &content).output;
    let pairs = output.read()?.into_iter().zip(expected);
    let worst = pairs.map(|(actual, expected)| (f64::from(actual) - expected).abs()).fold(0.0, f64::max);
    println!("largest difference from the reference: {worst:.1e}");
    if worst < 1e-5 { Ok(()) } else { Err("attention and the reference differ".into()) }
}
