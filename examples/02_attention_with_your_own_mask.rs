//! Attention with a mask of your own: two masks are combined on the host, attention runs under them in the CPU emulator, and its output is
//! compared with a plain loop.
//!
//!     cargo run --release --example 02_attention_with_your_own_mask

use retromae::device::Device;
use retromae::ops::PackedBatch;
use retromae::ops::attention::{self, Attention, MaskBits};

const LENGTHS: [usize; 2] = [6, 4];
const TOKENS: usize = 6 + 4;
/// Columns of the only head.
const HEAD_DIM: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Keys up to the query itself, and no third one but the query.
    let no_third = MaskBits::from_fn(&LENGTHS, |_sequence, query, key| key % 3 != 2 || key == query)?;
    let mask = (MaskBits::causal(&LENGTHS)? & no_third)?;

    let device = Device::host()?;
    let (batch, mask_buffer) = (PackedBatch::new(&device, &LENGTHS)?, mask.upload(&device)?);
    // Queries, keys and values side by side, as one linear layer makes them.
    let projection: Vec<f32> = (0..TOKENS * 3 * HEAD_DIM).map(|i| (0.7 * i as f32).sin()).collect();
    let uploaded = device.upload(&projection)?;
    let [query, key, value] = uploaded.matrix(TOKENS, 3 * HEAD_DIM)?.split_columns();
    let (mut output, mut log_sum_exp) = (device.zeros(TOKENS * HEAD_DIM)?, device.zeros(TOKENS)?);
    let forward = attention::Forward {
        attention: Attention::new(batch.view(), 1, HEAD_DIM).mask(mask_buffer.mask()),
        query,
        key,
        value,
        output: output.matrix_mut(TOKENS, HEAD_DIM)?,
        log_sum_exp: log_sum_exp.view_mut(),
    };
    attention::forward(&device.stream(), forward)?;

    let pairs = output.read()?.into_iter().zip(plain_attention(&projection, &mask));
    let worst = pairs.map(|(actual, expected)| f32::abs(actual - expected)).fold(0.0, f32::max);
    println!("largest difference from a plain loop: {worst:.1e}");
    if worst < 1e-5 { Ok(()) } else { Err("attention and the loop differ".into()) }
}

/// `softmax(scores of the keys that are seen) · values`, a query at a time.
fn plain_attention(projection: &[f32], mask: &MaskBits) -> Vec<f32> {
    let row = |token: usize, part: usize| &projection[(3 * token + part) * HEAD_DIM..][..HEAD_DIM];
    let mut output = Vec::new();
    for (sequence, start) in [(0, 0), (1, LENGTHS[0])] {
        for query in 0..LENGTHS[sequence] {
            let (mut sums, mut total) = ([0.0; HEAD_DIM], 0.0);
            for key in (0..LENGTHS[sequence]).filter(|&key| mask.sees(sequence, query, key)) {
                let product = row(start + query, 0).iter().zip(row(start + key, 1)).map(|(q, k)| q * k);
                let weight = (product.sum::<f32>() / (HEAD_DIM as f32).sqrt()).exp();
                total += weight;
                sums.iter_mut().zip(row(start + key, 2)).for_each(|(sum, value)| *sum += weight * value);
            }
            output.extend(sums.map(|sum| sum / total));
        }
    }
    output
}
