//! Output layer and cross-entropy, forward and backward: `cargo bench --bench cross_entropy`.

mod baseline;
mod harness;

use baseline::cross_entropy::Operands;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harness::{assert_same, device, group, has_baseline, values};
use retromae::device::{Buffer, Device};
use retromae::ops::cross_entropy::{self, ForwardBackward};

const ROWS: usize = 1024;
const VOCABULARY: usize = 8192;
/// Logits of the op that exist at once, in rows: the baseline holds all.
const CHUNK: usize = 256;

fn output_layer(criterion: &mut Criterion) {
    let device = device();
    let mut group = group(criterion, "cross_entropy");
    group.throughput(Throughput::Elements(ROWS as u64));
    for hidden_size in [128, 384] {
        let hidden = values(1, ROWS * hidden_size);
        let weight = values(2, VOCABULARY * hidden_size);
        let bias = values(3, VOCABULARY);
        let targets: Vec<i32> = (0..ROWS).map(|row| (row * 7 % VOCABULARY) as i32).collect();
        let row_weights = vec![1.0 / ROWS as f32; ROWS];
        let operands = Operands {
            hidden: &hidden,
            weight: &weight,
            bias: &bias,
            targets: &targets,
            row_weights: &row_weights,
        };
        let mut op = Op::new(&device, &operands, hidden_size);
        let parameter = format!("H{hidden_size}");
        group.bench_function(BenchmarkId::new("op", &parameter), |bencher| bencher.iter(|| op.run()));
        if !has_baseline(&device) {
            continue;
        }
        let mut unfused = baseline::cross_entropy::CrossEntropy::new(ROWS, hidden_size, VOCABULARY);
        group.bench_function(BenchmarkId::new("baseline", &parameter), |bencher| {
            bencher.iter(|| unfused.forward_backward(&operands));
        });
        let mut op = Op::new(&device, &operands, hidden_size);
        op.run();
        unfused.forward_backward(&operands);
        assert_same("losses", &op.losses.read().unwrap(), &unfused.losses);
        assert_same("d_hidden", &op.d_hidden.read().unwrap(), &unfused.d_hidden);
        assert_same("d_weight", &op.d_weight.read().unwrap(), &unfused.d_weight);
        assert_same("d_bias", &op.d_bias.read().unwrap(), &unfused.d_bias);
    }
    group.finish();
}

/// The fused operation with all its buffers on a device.
struct Op {
    device: Device,
    hidden_size: usize,
    hidden: Buffer<f32>,
    weight: Buffer<f32>,
    bias: Buffer<f32>,
    targets: Buffer<i32>,
    row_weights: Buffer<f32>,
    losses: Buffer<f32>,
    log_sum_exp: Buffer<f32>,
    d_hidden: Buffer<f32>,
    d_weight: Buffer<f32>,
    d_bias: Buffer<f32>,
    logits: Buffer<f32>,
    ones: Buffer<f32>,
}

impl Op {
    fn new(device: &Device, operands: &Operands<'_>, hidden_size: usize) -> Self {
        let upload = |values: &[f32]| device.upload(values).unwrap();
        let zeros = |count| device.zeros(count).unwrap();
        Self {
            device: device.clone(),
            hidden_size,
            hidden: upload(operands.hidden),
            weight: upload(operands.weight),
            bias: upload(operands.bias),
            targets: device.upload(operands.targets).unwrap(),
            row_weights: upload(operands.row_weights),
            losses: zeros(ROWS),
            log_sum_exp: zeros(ROWS),
            d_hidden: zeros(ROWS * hidden_size),
            d_weight: zeros(VOCABULARY * hidden_size),
            d_bias: zeros(VOCABULARY),
            logits: zeros(cross_entropy::workspace_logits(CHUNK, VOCABULARY)),
            ones: upload(&[1.0; CHUNK]),
        }
    }

    fn run(&mut self) {
        let stream = self.device.stream();
        let arguments = ForwardBackward {
            hidden: self.hidden.view(),
            weight: self.weight.view(),
            bias: self.bias.view(),
            targets: self.targets.view(),
            row_weights: self.row_weights.view(),
            losses: self.losses.view_mut(),
            log_sum_exp: self.log_sum_exp.view_mut(),
            d_hidden: self.d_hidden.view_mut(),
            d_weight: self.d_weight.view_mut(),
            d_bias: self.d_bias.view_mut(),
            logits: self.logits.view_mut(),
            ones: self.ones.view(),
            hidden_size: self.hidden_size,
        };
        cross_entropy::forward_backward(&stream, arguments).unwrap();
        stream.synchronize().unwrap();
    }
}

criterion_group!(benches, output_layer);
criterion_main!(benches);
