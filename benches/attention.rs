//! Full attention, as in the encoder: `cargo bench --bench attention`.

mod attention_masks;
mod baseline;
mod harness;

use criterion::{Criterion, criterion_group, criterion_main};

fn attention(criterion: &mut Criterion) {
    attention_masks::bench(criterion, "attention", false);
}

criterion_group!(benches, attention);
criterion_main!(benches);
