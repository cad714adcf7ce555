//! LayerNorm with bias, dropout and residual against the f64 reference.

use crate::cases::Pass;
use crate::cases::data::{SEED, STEP};
use crate::cases::layer_norm::{Case, EPS, Fused, Inputs, SITE};
use crate::common::{assert_close, assert_close_to_scale, devices, run_on, widened};
use retromae::device::{Buffer, Device, Float, bf16, f16};
use retromae::ops::layer_norm;
use retromae::random::Dropout;
use retromae::reference::layer_norm as reference;

/// Both passes without any optional input.
const PLAIN: Case = Case {
    rows: 0,
    columns: 8,
    mean: 0.0,
    bias: false,
    residual: false,
    d_bias: true,
    dropout: 0.0,
    pass: Pass::Backward,
};
/// Both passes with bias and residual.
const WHOLE: Case = Case { bias: true, residual: true, ..PLAIN };

fn dropout(case: Case) -> Option<Dropout> {
    (case.dropout > 0.0).then(|| Dropout::new(case.dropout, SEED, STEP, SITE))
}

/// Everything that the two passes produce, in the order of [`NAMES`].
type Results = [Vec<f64>; 8];
const NAMES: [&str; 8] = ["output", "sum", "mean", "d_residual", "d_input", "d_gamma", "d_beta", "d_bias"];
/// Index of the normalized elements in [`Results`].
const SUM: usize = 1;

/// Initial value of the gradients of gamma, beta and bias, which are added to.
const BEFORE: f64 = 0.5;

fn exact<T: Float>(case: Case, data: &Inputs<T>) -> Results {
    let (x, bias, residual) = (widened(&data.input), widened(&data.bias), widened(&data.residual));
    let (gamma, dropout) = (widened(&data.gamma), dropout(case));
    let block = reference::DropoutResidual {
        x: &x,
        bias: &bias,
        residual: &residual,
        gamma: &gamma,
        eps: f64::from(EPS),
        dropout: dropout.as_ref(),
    };
    let output = reference::dropout_residual_forward(&block, &widened(&data.beta));
    let gradients = reference::dropout_residual_backward(&block, &widened(&data.d_output));
    let factor = |i: usize| {
        dropout.map_or(1.0, |d| f64::from(d.factor(0, (i / case.columns) as u32, (i % case.columns) as u32)))
    };
    let sum: Vec<f64> =
        (0..x.len()).map(|i| residual[i] + factor(i) * (x[i] + bias[i % case.columns])).collect();
    let mean = sum.chunks(case.columns).map(|row| row.iter().sum::<f64>() / case.columns as f64).collect();
    let before = |gradient: Vec<f64>| gradient.iter().map(|g| g + BEFORE).collect();
    let (d_gamma, d_beta, d_bias) = (before(gradients.gamma), before(gradients.beta), before(gradients.bias));
    [output, sum, mean, gradients.residual, gradients.x, d_gamma, d_beta, d_bias]
}

/// The naive composition: each step in f32, rounded to `T` where a framework would store it.
fn naive<T: Float>(case: Case, data: &Inputs<T>) -> Results {
    let round = |value: f32| T::from_f32(value).to_f32();
    let (columns, dropout) = (case.columns, dropout(case));
    let mut results: Results = Default::default();
    let mut sums = vec![vec![BEFORE as f32; columns]; 3];
    for row in 0..case.rows {
        let factor = |c: usize| dropout.map_or(1.0, |d| d.factor(0, row as u32, c as u32));
        let at = |array: &[T], c: usize| array[row * columns + c].to_f32();
        let sum: Vec<f32> = (0..columns)
            .map(|c| round(factor(c) * round(at(&data.input, c) + data.bias[c])))
            .enumerate()
            .map(|(c, dropped)| round(at(&data.residual, c) + dropped))
            .collect();
        let mean = sum.iter().sum::<f32>() / columns as f32;
        let variance = sum.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / columns as f32;
        let rstd = 1.0 / (variance + EPS).sqrt();
        let normalized: Vec<f32> = sum.iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f32> = (0..columns).map(|c| data.gamma[c] * at(&data.d_output, c)).collect();
        let g_mean = g.iter().sum::<f32>() / columns as f32;
        let projection = g.iter().zip(&normalized).map(|(g, x)| g * x).sum::<f32>() / columns as f32;
        results[2].push(f64::from(mean));
        for c in 0..columns {
            let output = round(data.gamma[c] * normalized[c] + data.beta[c]);
            let d_sum = round(rstd * (g[c] - g_mean - normalized[c] * projection));
            let d_input = round(d_sum * factor(c));
            results[0].push(f64::from(output));
            results[1].push(f64::from(sum[c]));
            results[3].push(f64::from(d_sum));
            results[4].push(f64::from(d_input));
            sums[0][c] += at(&data.d_output, c) * normalized[c];
            sums[1][c] += at(&data.d_output, c);
            sums[2][c] += d_input;
        }
    }
    for (result, sum) in results[5..].iter_mut().zip(sums) {
        *result = sum.into_iter().map(f64::from).collect();
    }
    results
}

fn run<T: Float>(device: &Device, case: Case, data: &Inputs<T>) -> Results {
    let stream = device.stream();
    let mut fused = Fused::new(&stream, case, data).unwrap();
    let before = vec![BEFORE as f32; case.columns];
    for gradient in [&mut fused.d_gamma, &mut fused.d_beta, &mut fused.d_bias] {
        gradient.write(&before).unwrap();
    }
    fused.backward(&stream).unwrap();
    let wide = |buffer: &Buffer<T>| widened(&buffer.read().unwrap());
    let wide_f32 = |buffer: &Buffer<f32>| widened(&buffer.read().unwrap());
    [
        wide(&fused.output),
        wide(&fused.sum),
        wide_f32(&fused.mean),
        wide(&fused.d_residual),
        wide(&fused.d_input),
        wide_f32(&fused.d_gamma),
        wide_f32(&fused.d_beta),
        wide_f32(&fused.d_bias),
    ]
}

fn check<T: Float>(devices: &[Device], case: Case) {
    let data = case.inputs::<T>();
    let (exact, naive) = (exact(case, &data), naive(case, &data));
    for device in devices {
        let actual = run(device, case, &data);
        for (i, name) in NAMES.iter().enumerate() {
            // A mean is a sum that cancels: its error is measured against the elements.
            let scaled_by = if *name == "mean" { &exact[SUM] } else { &exact[i] };
            let scale = scaled_by.iter().fold(0.0f64, |max, value| max.max(value.abs()));
            let what = format!("{name} of {case:?}");
            assert_close_to_scale::<T>(&what, &actual[i], &naive[i], &exact[i], scale);
        }
    }
}

/// Names the operation's kernels by launching them.
pub fn kernels<T: Float>(device: &Device) -> Vec<String> {
    let case = Case { rows: 17, columns: 40, dropout: 0.1, ..WHOLE };
    let stream = device.stream();
    let mut fused = Fused::<T>::new(&stream, case, &case.inputs()).unwrap();
    stream.synchronize().unwrap();
    run_on(device, true, |stream| {
        fused.forward(stream).unwrap();
        fused.backward(stream).unwrap();
        Ok(())
    })
}

#[test]
fn matches_the_reference() {
    let devices = devices();
    let shapes = [
        (0, 32),
        (1, 8),
        (2, 16),
        (17, 32),
        (33, 128),
        (129, 384),
        (33, 768),
        (17, 1000),
        (2, 1024),
        (1, 264),
        (5, 520),
    ];
    for (rows, columns) in shapes {
        for (form, dropout) in [(PLAIN, 0.0), (WHOLE, 0.0), (WHOLE, 0.1), (PLAIN, 0.5)] {
            let case = Case { rows, columns, dropout, ..form };
            check::<f32>(&devices, case);
            check::<bf16>(&devices, case);
            check::<f16>(&devices, case);
        }
    }
}

/// Computed as the mean of squares minus the square of the mean, the variance would have no correct digit here.
#[test]
fn a_mean_far_above_the_deviation_is_sound() {
    for (rows, columns, mean) in [(3, 128, 1e4), (33, 768, -3e3), (2, 1024, 1e3)] {
        check::<f32>(&devices(), Case { rows, columns, mean, ..WHOLE });
        let small = Case { rows, columns, mean: mean / 1e3, dropout: 0.1, ..WHOLE };
        check::<bf16>(&devices(), small);
        check::<f16>(&devices(), small);
    }
}

/// Has enough rows that each block takes several rounds of them, the last of which is not full.
#[test]
fn many_rows_leave_few_partial_sums() {
    let partials = |rows| layer_norm::workspace(rows, 16).bytes() / (3 * 16 * 4);
    assert_eq!([partials(64), partials(8192), partials(8300), partials(1 << 20)], [1, 128, 130, 256]);
    let case = Case { rows: 8300, columns: 16, dropout: 0.1, ..WHOLE };
    check::<f32>(&devices(), case);
    check::<bf16>(&devices(), case);
    check::<f16>(&devices(), case);
}

#[test]
fn a_constant_row_gives_beta() {
    for device in devices() {
        let (stream, columns) = (device.stream(), 40);
        let input = device.upload(&vec![3.5f32; 2 * columns]).unwrap();
        let gamma = device.upload(&vec![2.0f32; columns]).unwrap();
        let beta = device.upload(&vec![0.25f32; columns]).unwrap();
        let mut output = device.zeros::<f32>(2 * columns).unwrap();
        let [mut mean, mut rstd] = [0, 1].map(|_| device.zeros::<f32>(2).unwrap());
        let arguments = layer_norm::Forward {
            input: input.matrix(2, columns).unwrap(),
            gamma: gamma.view(),
            beta: beta.view(),
            eps: EPS,
            output: output.matrix_mut(2, columns).unwrap(),
            mean: mean.view_mut(),
            rstd: rstd.view_mut(),
            fused: layer_norm::Fused::default(),
        };
        layer_norm::forward(&stream, arguments).unwrap();
        assert_eq!(output.read().unwrap(), vec![0.25; 2 * columns]);
        assert_eq!(mean.read().unwrap(), [3.5; 2]);
    }
}

#[test]
fn the_workspace_never_shrinks() {
    let needs = |rows| layer_norm::workspace(rows, 64);
    assert!((0..10_000).all(|rows| needs(rows) <= needs(rows + 1)));
    assert!(
        (1..128).all(|c| { layer_norm::workspace(5000, c * 8) <= layer_norm::workspace(5000, c * 8 + 8) })
    );
}

/// Plain LayerNorm with the defaults: the gradient of the input, which is that of the sum, and no other output.
fn check_defaults<T: Float>(device: &Device) {
    let case = Case { rows: 33, columns: 264, mean: 0.5, ..PLAIN };
    let Case { rows, columns, .. } = case;
    let data = case.inputs::<T>();
    let (exact, naive) = (exact(case, &data), naive(case, &data));
    let stream = device.stream();
    let [input, d_output] = [&data.input, &data.d_output].map(|array| device.upload(array).unwrap());
    let [gamma, beta] = [&data.gamma, &data.beta].map(|array| device.upload(array).unwrap());
    let [mut output, mut d_input] = [0, 1].map(|_| device.zeros::<T>(rows * columns).unwrap());
    let [mut mean, mut rstd] = [0, 1].map(|_| device.zeros::<f32>(rows).unwrap());
    let forward = layer_norm::Forward {
        input: input.matrix(rows, columns).unwrap(),
        gamma: gamma.view(),
        beta: beta.view(),
        eps: EPS,
        output: output.matrix_mut(rows, columns).unwrap(),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
        fused: layer_norm::Fused::default(),
    };
    layer_norm::forward(&stream, forward).unwrap();
    let before = vec![BEFORE as f32; columns];
    let [mut d_gamma, mut d_beta] = [0, 1].map(|_| device.upload(&before).unwrap());
    let mut workspace = layer_norm::workspace(rows, columns).allocate(device).unwrap();
    let backward = layer_norm::Backward {
        d_output: d_output.matrix(rows, columns).unwrap(),
        sum: input.matrix(rows, columns).unwrap(),
        mean: mean.view(),
        rstd: rstd.view(),
        gamma: gamma.view(),
        d_input: d_input.matrix_mut(rows, columns).unwrap(),
        d_gamma: d_gamma.view_mut(),
        d_beta: d_beta.view_mut(),
        workspace: workspace.view_mut(),
        fused: layer_norm::FusedGradients::default(),
    };
    layer_norm::backward(&stream, backward).unwrap();
    let read = |buffer: &Buffer<T>| widened(&buffer.read().unwrap());
    let read_f32 = |buffer: &Buffer<f32>| widened(&buffer.read().unwrap());
    let results = [(0, read(&output)), (4, read(&d_input)), (5, read_f32(&d_gamma)), (6, read_f32(&d_beta))];
    for (index, actual) in results {
        assert_close::<T>(&format!("plain {}", NAMES[index]), &actual, &naive[index], &exact[index]);
    }
}

#[test]
fn the_defaults_are_plain_layer_norm() {
    for device in devices() {
        check_defaults::<f32>(&device);
        check_defaults::<bf16>(&device);
        check_defaults::<f16>(&device);
    }
}

/// Shapes of a forward call, and its eps.
#[derive(Clone, Copy)]
struct Shapes {
    input: [usize; 2],
    gamma: usize,
    beta: usize,
    bias: usize,
    residual: [usize; 2],
    output: [usize; 2],
    mean: usize,
    eps: f32,
}

const RIGHT: Shapes = Shapes {
    input: [2, 16],
    gamma: 16,
    beta: 16,
    bias: 16,
    residual: [2, 16],
    output: [2, 16],
    mean: 2,
    eps: EPS,
};

#[test]
fn wrong_shapes_are_refused() {
    let device = &devices()[0];
    let array = device.zeros::<f32>(4096).unwrap();
    let matrix = |[rows, columns]: [usize; 2]| array.slice(0..rows * columns).matrix(rows, columns).unwrap();
    let refuse = |shapes: Shapes| {
        let [rows, columns] = shapes.output;
        let mut outputs = device.zeros::<f32>(rows * columns).unwrap();
        let [mut means, mut rstds] = [0, 1].map(|_| device.zeros::<f32>(64).unwrap());
        let arguments = layer_norm::Forward {
            input: matrix(shapes.input),
            gamma: array.slice(0..shapes.gamma),
            beta: array.slice(0..shapes.beta),
            eps: shapes.eps,
            output: outputs.matrix_mut(rows, columns).unwrap(),
            mean: means.slice_mut(0..shapes.mean),
            rstd: rstds.slice_mut(0..shapes.mean),
            fused: layer_norm::Fused {
                bias: Some(array.slice(0..shapes.bias)),
                residual: Some(matrix(shapes.residual)),
                ..layer_norm::Fused::default()
            },
        };
        layer_norm::forward(&device.stream(), arguments).unwrap_err().to_string()
    };
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let expected = format!("eps is {eps}; it should be positive and finite");
        assert_eq!(refuse(Shapes { eps, ..RIGHT }), expected);
    }
    let cases = [
        (
            Shapes { input: [2, 12], gamma: 12, ..RIGHT },
            "input is [2, 12]; it should be of a positive multiple of 8 columns",
        ),
        (
            Shapes { input: [2, 1032], gamma: 1032, ..RIGHT },
            "input is [2, 1032]; it should be of at most 1024 columns",
        ),
        (Shapes { gamma: 8, ..RIGHT }, "gamma is 8 elements long; it should be 16 (columns)"),
        (Shapes { beta: 8, ..RIGHT }, "beta is 8 elements long; it should be 16 (columns)"),
        (Shapes { bias: 8, ..RIGHT }, "bias is 8 elements long; it should be 16 (columns)"),
        (Shapes { residual: [4, 8], ..RIGHT }, "residual is [4, 8]; it should be [2, 16] (as input)"),
        (Shapes { output: [1, 16], ..RIGHT }, "output is [1, 16]; it should be [2, 16] (as input)"),
        (Shapes { mean: 3, ..RIGHT }, "mean is 3 elements long; it should be 2 (rows)"),
    ];
    for (shapes, expected) in cases {
        assert_eq!(refuse(shapes), expected);
    }
}
