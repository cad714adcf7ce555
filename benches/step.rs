//! A whole training step of the tiny model with drawn masks and dropout, and where its time goes: `cargo bench --bench step`.

mod harness;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use harness::{device, group};
use retromae::device::{Device, Timings};
use retromae::model::{
    Batch, Capacity, IGNORE_INDEX, Losses, Model, ModelConfig, StepRandomness, Visibility,
};
use retromae::reference::mask::{SPECIAL, WORD_START};

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
    sentence_indices: Vec<u32>,
    word_starts: Vec<u8>,
    step: u32,
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
            visibility: None,
        };
        let capacity = Capacity { tokens, sentences: LENGTHS.len(), sentence_length: 192 };
        let mut model = Model::new(device, &ModelConfig::tiny(VOCABULARY), capacity).unwrap();
        model.initialise(1).unwrap();
        Self {
            device: device.clone(),
            model,
            batch,
            sentence_indices: (0..LENGTHS.len() as u32).collect(),
            word_starts: specials().map(|at| if special(at) { SPECIAL } else { WORD_START }).collect(),
            step: 0,
        }
    }

    fn run(&mut self) -> Losses {
        let visibility = Visibility::Drawn {
            sentence_indices: &self.sentence_indices,
            word_starts: &self.word_starts,
            ratio: RATIO,
            bank_rows_max: BANK_ROWS_MAX,
        };
        self.step += 1;
        let randomness = StepRandomness { seed: 42, step: self.step };
        self.model.step(&self.device.stream(), &self.batch, visibility, Some(randomness)).unwrap()
    }
}

fn step(criterion: &mut Criterion) {
    let device = device();
    let mut step = Step::new(&device);
    let mut group = group(criterion, "step");
    group.throughput(Throughput::Elements(LENGTHS.iter().sum::<usize>() as u64));
    group.bench_function("tiny", |bencher| bencher.iter(|| step.run()));
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
