//! The end of a transformer block, `LayerNorm(residual + dropout(input))`, forward and backward.
//!
//! Bound, with R rows of C columns: no matmuls; 4·R·C·e bytes and two f32 a row each way (forward input, residual, sum, output; backward gradient of
//! the output, sum, gradients of residual and input).

use retromae::device::{Buffer, ModelFloat, Stream};
use retromae::ops::{self, layer_norm};

use crate::baseline;
use crate::harness::{
    Bench, Bound, FUSED, Outcome, Rank, Results, UNFUSED, Variant, Work, typed, values, widened,
};

const EPS: f32 = 1e-12;
const DROPOUT: f32 = 0.1;
const SITE: u32 = 9;

#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    columns: usize,
    backward: bool,
}

impl Case {
    /// Input, residual, gradient of the output.
    fn matrices<T: ModelFloat>(&self) -> [Vec<T>; 3] {
        [1, 2, 3].map(|seed| typed(seed, self.rows * self.columns))
    }

    /// Gamma, beta.
    fn vectors(&self) -> [Vec<f32>; 2] {
        [4, 5].map(|seed| values(seed, self.columns))
    }

    fn bound(&self, element_bytes: usize) -> Bound {
        Bound::new(0, 4 * self.rows * self.columns * element_bytes + 8 * self.rows)
    }
}

pub fn bench<T: ModelFloat>(bench: &mut Bench) {
    let on_gpu = bench.on_gpu();
    let (rows, columns) = if on_gpu { (32_768, 768) } else { (4096, 128) };
    for (operation, backward) in [("layer_norm_forward", false), ("layer_norm_backward", true)] {
        let mut group = bench.group(operation);
        let case = Case { rows, columns, backward };
        let fused = Variant::new(FUSED, move |stream| Fused::<T>::new(stream, case));
        let unfused = Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case));
        group.case(
            Rank::Headline,
            &format!("R{}_C{}", case.rows, case.columns),
            case.bound(T::DTYPE.bytes()),
            vec![fused, unfused],
        );
    }
}

fn results(arrays: Vec<(&str, Vec<f32>)>) -> Outcome<Results> {
    Ok(arrays.into_iter().map(|(name, values)| (name.to_string(), values)).collect())
}

/// The fused operation.
struct Fused<T: ModelFloat> {
    case: Case,
    rng: Buffer<u32>,
    input: Buffer<T>,
    residual: Buffer<T>,
    d_output: Buffer<T>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
    output: Buffer<T>,
    sum: Buffer<T>,
    mean: Buffer<f32>,
    rstd: Buffer<f32>,
    d_input: Buffer<T>,
    d_residual: Buffer<T>,
    d_gamma: Buffer<f32>,
    d_beta: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: ModelFloat> Fused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let Case { rows, columns, .. } = case;
        let [input, residual, d_output] = case.matrices::<T>().map(|values| device.upload(&values));
        let [gamma, beta] = case.vectors().map(|values| device.upload(&values));
        let matrix = || device.zeros(rows * columns);
        let mut fused = Self {
            case,
            rng: device.upload(&ops::rng_state(1, 1))?,
            input: input?,
            residual: residual?,
            d_output: d_output?,
            gamma: gamma?,
            beta: beta?,
            output: matrix()?,
            sum: matrix()?,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
            d_input: matrix()?,
            d_residual: matrix()?,
            d_gamma: device.zeros(columns)?,
            d_beta: device.zeros(columns)?,
            workspace: layer_norm::workspace(rows, columns).allocate(device)?,
        };
        fused.forward(stream)?;
        Ok(fused)
    }

    fn forward(&mut self, stream: &Stream) -> Outcome<()> {
        let Case { rows, columns, .. } = self.case;
        let forward = layer_norm::Forward {
            input: self.input.matrix(rows, columns)?,
            gamma: self.gamma.view(),
            beta: self.beta.view(),
            eps: EPS,
            output: self.output.matrix_mut(rows, columns)?,
            mean: self.mean.view_mut(),
            rstd: self.rstd.view_mut(),
            fused: layer_norm::Fused {
                dropout: Some(ops::Dropout { rng: self.rng.view(), rate: DROPOUT, site: SITE }),
                residual: Some(self.residual.matrix(rows, columns)?),
                sum: Some(self.sum.matrix_mut(rows, columns)?),
                ..layer_norm::Fused::default()
            },
        };
        Ok(layer_norm::forward(stream, forward)?)
    }

    fn backward(&mut self, stream: &Stream) -> Outcome<()> {
        let Case { rows, columns, .. } = self.case;
        let backward = layer_norm::Backward {
            d_output: self.d_output.matrix(rows, columns)?,
            sum: self.sum.matrix(rows, columns)?,
            mean: self.mean.view(),
            rstd: self.rstd.view(),
            gamma: self.gamma.view(),
            d_input: self.d_input.matrix_mut(rows, columns)?,
            d_gamma: self.d_gamma.view_mut(),
            d_beta: self.d_beta.view_mut(),
            workspace: self.workspace.view_mut(),
            fused: layer_norm::FusedGradients {
                dropout: Some(ops::Dropout { rng: self.rng.view(), rate: DROPOUT, site: SITE }),
                d_residual: Some(self.d_residual.matrix_mut(rows, columns)?),
                ..layer_norm::FusedGradients::default()
            },
        };
        Ok(layer_norm::backward(stream, backward)?)
    }
}

impl<T: ModelFloat> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        if self.case.backward { self.backward(stream) } else { self.forward(stream) }
    }

    fn results(&mut self) -> Outcome<Results> {
        if !self.case.backward {
            return results(vec![("output", widened(&self.output)?)]);
        }
        results(vec![
            ("d_input", widened(&self.d_input)?),
            ("d_residual", widened(&self.d_residual)?),
            ("d_gamma", self.d_gamma.read()?),
            ("d_beta", self.d_beta.read()?),
        ])
    }
}

/// Kernels of the baseline.
struct Unfused<T: ModelFloat> {
    case: Case,
    input: Buffer<T>,
    residual: Buffer<T>,
    d_output: Buffer<T>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
    layer: baseline::layer_norm::LayerNorm<T>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let [input, residual, d_output] = case.matrices::<T>().map(|values| device.upload(&values));
        let [gamma, beta] = case.vectors().map(|values| device.upload(&values));
        let dropout = baseline::Dropout::new(stream, case.rows * case.columns, DROPOUT, SITE)?;
        let layer =
            baseline::layer_norm::LayerNorm::new(stream, case.rows, case.columns, Some(dropout), EPS)?;
        let mut unfused = Self {
            case,
            input: input?,
            residual: residual?,
            d_output: d_output?,
            gamma: gamma?,
            beta: beta?,
            layer,
        };
        unfused.pass(stream, false)?;
        Ok(unfused)
    }

    fn pass(&mut self, stream: &Stream, backward: bool) -> Outcome<()> {
        let (gamma, beta) = (self.gamma.view(), self.beta.view());
        let parameters = baseline::layer_norm::Parameters { bias: None, gamma, beta };
        let (input, residual) = (self.input.view(), self.residual.view());
        if backward {
            self.layer.backward(stream, parameters, self.d_output.view())?;
        } else {
            self.layer.forward(stream, parameters, input, Some(residual))?;
        }
        Ok(())
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.pass(stream, self.case.backward)
    }

    fn results(&mut self) -> Outcome<Results> {
        if !self.case.backward {
            return results(vec![("output", widened(&self.layer.output)?)]);
        }
        let mut d_gamma = self.layer.d_parameters.read()?;
        let d_beta = d_gamma.split_off(self.case.columns);
        results(vec![
            ("d_input", widened(self.layer.d_input())?),
            ("d_residual", widened(&self.layer.d_residual)?),
            ("d_gamma", d_gamma),
            ("d_beta", d_beta),
        ])
    }
}
