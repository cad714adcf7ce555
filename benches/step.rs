//! A whole training step of the tiny model, forward and backward, and where its time goes: `cargo bench --bench step`.

mod baseline;
mod harness;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harness::{device, group, has_baseline};
use retromae::device::{Device, Timings};
use retromae::model::{
    Batch, Capacity, IGNORE_INDEX, Losses, Model, ModelConfig, Visibility, VisibilityBank,
};
use retromae::reference::mask::{MaskedSentence, SPECIAL, WORD_START, mask_bank, ratio_q32};

const VOCABULARY: usize = 8192;
/// 2048 tokens.
const LENGTHS: [usize; 24] =
    [16, 24, 32, 32, 48, 48, 56, 64, 64, 64, 72, 80, 80, 88, 96, 96, 104, 112, 120, 128, 128, 144, 160, 192];
/// Every third token of the encoder's input is masked, about the paper's share of 30%.
const MASKED_EVERY: usize = 3;
const MASK_ID: i32 = 4;
const RATIO: f32 = 0.5;
const BANK_ROWS_MAX: usize = 128;

struct Step {
    device: Device,
    model: Model<f32>,
    batch: Batch,
}

impl Step {
    fn new(device: &Device) -> Self {
        let mut cu_seqlens = vec![0];
        LENGTHS.iter().for_each(|&length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as i32));
        let tokens: usize = LENGTHS.iter().sum();
        let specials = || LENGTHS.iter().flat_map(|&length| (0..length).map(move |slot| (slot, length)));
        let special = |(slot, length)| slot == 0 || slot + 1 == length;
        let ids: Vec<i32> = (0..tokens).map(|token| 10 + (token * 37 % (VOCABULARY - 10)) as i32).collect();
        let masked: Vec<bool> =
            specials().enumerate().map(|(token, at)| token % MASKED_EVERY == 0 && !special(at)).collect();
        let pick = |yes: bool, one: i32, other: i32| if yes { one } else { other };
        let batch = Batch {
            cu_seqlens,
            encoder_input_ids: ids.iter().zip(&masked).map(|(&id, &m)| pick(m, MASK_ID, id)).collect(),
            encoder_labels: ids.iter().zip(&masked).map(|(&id, &m)| pick(m, id, IGNORE_INDEX)).collect(),
            decoder_labels: ids
                .iter()
                .zip(specials())
                .map(|(&id, at)| pick(at.0 == 0, IGNORE_INDEX, id))
                .collect(),
            decoder_input_ids: ids,
            visibility: Some(visibility()),
        };
        let capacity = Capacity { tokens, sentences: LENGTHS.len(), sentence_length: 192 };
        // Without dropout, which the baseline has none of.
        let config = ModelConfig {
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            ..ModelConfig::tiny(VOCABULARY)
        };
        let mut model = Model::new(device, &config, capacity).unwrap();
        model.initialise(1).unwrap();
        Self { device: device.clone(), model, batch }
    }

    fn baseline(&self) -> baseline::step::Step {
        let parameter = |(name, _): (String, _)| {
            let values = self.model.parameter(&name).unwrap();
            (name, values)
        };
        let parameters = self.model.parameter_shapes().into_iter().map(parameter).collect();
        baseline::step::Step::new(self.model.config(), parameters, &self.batch)
    }

    fn run(&mut self) -> Losses {
        self.model.step(&self.device.stream(), &self.batch, Visibility::Explicit, None).unwrap()
    }
}

/// Whole words of one token, between two special tokens.
fn visibility() -> VisibilityBank {
    let word_starts = LENGTHS.map(|length| {
        let mut starts = vec![WORD_START; length];
        (starts[0], starts[length - 1]) = (SPECIAL, SPECIAL);
        starts
    });
    let sentence = |(index, word_starts)| MaskedSentence { index: index as u32, word_starts };
    let sentences: Vec<_> = word_starts.iter().map(Vec::as_slice).enumerate().map(sentence).collect();
    mask_bank(42, 1, &sentences, ratio_q32(RATIO), BANK_ROWS_MAX)
}

/// Runs both once; panics unless losses and gradients agree.
fn assert_same_step(op: &mut Step, baseline: &mut baseline::step::Step) {
    let losses = op.run();
    for (op, baseline) in [losses.encoder, losses.decoder].into_iter().zip(baseline.run()) {
        assert!((op - baseline).abs() <= 1e-3 * baseline.abs(), "loss: op {op}, baseline {baseline}");
    }
    for (name, _) in op.model.parameter_shapes() {
        // It shifts all scores of a row alike, so its gradient is nothing but rounding errors.
        if name.ends_with("key.bias") {
            continue;
        }
        let (op, baseline) = (op.model.gradient(&name).unwrap(), baseline.gradient(&name));
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let difference = norm(&mut op.iter().zip(baseline).map(|(a, b)| a - b));
        let allowed = 1e-2 * norm(&mut baseline.iter().copied());
        assert!(
            op.len() == baseline.len() && allowed > 0.0 && difference <= allowed,
            "{name}: gradients differ"
        );
    }
}

fn step(criterion: &mut Criterion) {
    let device = device();
    let mut step = Step::new(&device);
    let mut group = group(criterion, "step");
    group.throughput(Throughput::Elements(LENGTHS.iter().sum::<usize>() as u64));
    let mut unfused = has_baseline(&device).then(|| step.baseline());
    if let Some(unfused) = &mut unfused {
        assert_same_step(&mut step, unfused);
    }
    group.bench_function(BenchmarkId::new("op", "tiny"), |bencher| bencher.iter(|| step.run()));
    if let Some(unfused) = &mut unfused {
        group.bench_function(BenchmarkId::new("baseline", "tiny"), |bencher| bencher.iter(|| unfused.run()));
    }
    group.finish();
    let Timings { gemm, kernels } = device.timings();
    let total = (gemm + kernels).as_secs_f64();
    if total > 0.0 {
        let percent = |part: std::time::Duration| 100.0 * part.as_secs_f64() / total;
        println!("emulated kernels {:.0}%, matrix products {:.0}%", percent(kernels), percent(gemm));
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
