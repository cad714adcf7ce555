//! The end of a transformer block, `LayerNorm(residual + input + bias)`, forward and backward: `cargo bench --bench layer_norm`.

mod baseline;
mod harness;

use baseline::layer_norm::{LayerNorm, Operands};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use harness::{assert_same, device, group, has_baseline, values};
use retromae::device::{Buffer, Device};
use retromae::ops::layer_norm;

const ROWS: usize = 4096;
const EPS: f32 = 1e-12;

fn block_end(criterion: &mut Criterion) {
    let device = device();
    let mut group = group(criterion, "layer_norm");
    for columns in [128, 768] {
        group.throughput(Throughput::Elements((ROWS * columns) as u64));
        let [input, residual, d_output] = [1, 2, 3].map(|seed| values(seed, ROWS * columns));
        let [bias, gamma, beta] = [4, 5, 6].map(|seed| values(seed, columns));
        let operands = Operands {
            input: &input,
            bias: Some(&bias),
            residual: Some(&residual),
            gamma: &gamma,
            beta: &beta,
            d_output: &d_output,
            eps: EPS,
        };
        let mut op = Op::new(&device, &operands);
        group.bench_function(BenchmarkId::new("op", columns), |bencher| bencher.iter(|| op.run()));
        if !has_baseline(&device) {
            continue;
        }
        let mut unfused = LayerNorm::new(ROWS, columns);
        let mut run = || {
            unfused.forward(&operands);
            unfused.backward(&operands);
        };
        group.bench_function(BenchmarkId::new("baseline", columns), |bencher| bencher.iter(&mut run));
        let mut op = Op::new(&device, &operands);
        op.run();
        run();
        for (what, buffer, values) in [
            ("output", &op.output, &unfused.output),
            ("d_input", &op.d_input, &unfused.d_input),
            ("d_gamma", &op.d_gamma, &unfused.d_gamma),
            ("d_beta", &op.d_beta, &unfused.d_beta),
            ("d_bias", &op.d_bias, &unfused.d_bias),
        ] {
            assert_same(what, &buffer.read().unwrap(), values);
        }
    }
    group.finish();
}

/// The fused operation with all its buffers on a device.
struct Op {
    device: Device,
    input: Buffer<f32>,
    bias: Buffer<f32>,
    residual: Buffer<f32>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
    d_output: Buffer<f32>,
    output: Buffer<f32>,
    sum: Buffer<f32>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    d_input: Buffer<f32>,
    d_gamma: Buffer<f32>,
    d_beta: Buffer<f32>,
    d_bias: Buffer<f32>,
    workspace: Buffer<f32>,
}

impl Op {
    fn new(device: &Device, operands: &Operands<'_>) -> Self {
        let upload = |values: &[f32]| device.upload(values).unwrap();
        let zeros = |count| device.zeros(count).unwrap();
        let (elements, columns) = (operands.input.len(), operands.gamma.len());
        Self {
            device: device.clone(),
            input: upload(operands.input),
            bias: upload(operands.bias.unwrap()),
            residual: upload(operands.residual.unwrap()),
            gamma: upload(operands.gamma),
            beta: upload(operands.beta),
            d_output: upload(operands.d_output),
            output: zeros(elements),
            sum: zeros(elements),
            mean: zeros(ROWS),
            rstd: zeros(ROWS),
            d_input: zeros(elements),
            d_gamma: zeros(columns),
            d_beta: zeros(columns),
            d_bias: zeros(columns),
            workspace: zeros(layer_norm::backward_workspace(ROWS, columns)),
        }
    }

    fn run(&mut self) {
        let stream = self.device.stream();
        let forward = layer_norm::Forward {
            input: self.input.view(),
            bias: Some(self.bias.view()),
            residual: Some(self.residual.view()),
            gamma: self.gamma.view(),
            beta: self.beta.view(),
            eps: EPS,
            dropout: None,
            output: self.output.view_mut(),
            sum: Some(self.sum.view_mut()),
            mean: self.mean.view_mut(),
            rstd: self.rstd.view_mut(),
        };
        layer_norm::forward(&stream, forward).unwrap();
        let backward = layer_norm::Backward {
            d_output: self.d_output.view(),
            sum: self.sum.view(),
            mean: self.mean.view(),
            rstd: self.rstd.view(),
            gamma: self.gamma.view(),
            dropout: None,
            d_residual: None,
            d_input: self.d_input.view_mut(),
            d_gamma: self.d_gamma.view_mut(),
            d_beta: self.d_beta.view_mut(),
            d_bias: Some(self.d_bias.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        layer_norm::backward(&stream, backward).unwrap();
        stream.synchronize().unwrap();
    }
}

criterion_group!(benches, block_end);
criterion_main!(benches);
