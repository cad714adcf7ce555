//! Attention under position-specific masks, as in the enhanced decoder: bit rows of a bank in the kernel, a dense f32 mask in the
//! baseline. `cargo bench --bench two_stream`.

mod attention_masks;
mod baseline;
mod harness;

use criterion::{Criterion, criterion_group, criterion_main};

fn two_stream(criterion: &mut Criterion) {
    attention_masks::bench(criterion, "two_stream", true);
}

criterion_group!(benches, two_stream);
criterion_main!(benches);
