//! The end of a transformer block, `LayerNorm(residual + dropout(input))`, forward and backward.
//!
//! Bound, with R rows of C columns: no matmuls; 4·R·C·e bytes and two f32 a row each way (forward input, residual, sum, output; backward gradient of
//! the output, sum, gradients of residual and input).

use retromae::device::{Buffer, Float, ModelFloat, Stream};
use retromae::ops::{self, layer_norm, rng_state};
use serde_json::{Value, json};

use super::baseline;
use super::data::{SEED, STEP, decimal, read, rounded, typed, values};
use super::{Bound, FUSED, Operation, Outcome, Pass, Results, Scale, UNFUSED, Variant, Work, named};

pub const EPS: f32 = 1e-12;
/// Stream of the dropout.
pub const SITE: u32 = 9;

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub rows: usize,
    pub columns: usize,
    /// Mean of the input.
    pub mean: f64,
    /// Optional arguments.
    pub bias: bool,
    pub residual: bool,
    pub d_bias: bool,
    /// Rate; 0 without dropout.
    pub dropout: f32,
    /// Pass that runs.
    pub pass: Pass,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let (rows, columns) = scale.choose((32_768, 768), (4096, 128));
    let passes = [("layer_norm_forward", Pass::Forward), ("layer_norm_backward", Pass::Backward)];
    let operation = |(name, pass)| {
        let case =
            Case { rows, columns, mean: 0.0, bias: false, residual: true, d_bias: false, dropout: 0.1, pass };
        Operation::new(name, [case])
    };
    passes.map(operation).into()
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("R{}_C{}", self.rows, self.columns)
    }

    fn sizes(&self) -> Option<Value> {
        Some(
            json!({"rows": self.rows, "columns": self.columns, "dropout": decimal(self.dropout), "eps": decimal(EPS)}),
        )
    }

    fn bound(&self) -> Bound {
        Bound::new(0, 4 * self.rows * self.columns * T::DTYPE.bytes() + 8 * self.rows)
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        vec![
            Variant::new(FUSED, move |stream| Fused::<T>::new(stream, case, &case.inputs())),
            Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case)),
        ]
    }
}

/// Host data of a case. Absent bias and residual are zeros.
pub struct Inputs<T> {
    pub input: Vec<T>,
    pub bias: Vec<f32>,
    pub residual: Vec<T>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub d_output: Vec<T>,
}

impl Case {
    pub fn inputs<T: Float>(&self) -> Inputs<T> {
        let Self { rows, columns, mean, .. } = *self;
        let shifted = |seed, count, by: f64| values(seed, count).iter().map(|v| v + by).collect::<Vec<_>>();
        let zeros = |count| vec![T::from_f32(0.0); count];
        Inputs {
            input: rounded(&shifted(1, rows * columns, mean)),
            bias: if self.bias { typed(2, columns) } else { vec![0.0; columns] },
            residual: if self.residual { typed(3, rows * columns) } else { zeros(rows * columns) },
            gamma: rounded(&shifted(4, columns, 1.0)),
            beta: typed(5, columns),
            d_output: typed(6, rows * columns),
        }
    }
}

/// The fused operation. Gradients of vectors start from 0, and are added to.
pub struct Fused<T: Float> {
    case: Case,
    rng: Buffer<u32>,
    input: Buffer<T>,
    bias: Buffer<f32>,
    residual: Buffer<T>,
    d_output: Buffer<T>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
    pub output: Buffer<T>,
    pub sum: Buffer<T>,
    pub mean: Buffer<f32>,
    pub rstd: Buffer<f32>,
    pub d_input: Buffer<T>,
    pub d_residual: Buffer<T>,
    pub d_gamma: Buffer<f32>,
    pub d_beta: Buffer<f32>,
    pub d_bias: Buffer<f32>,
    workspace: Buffer<u8>,
}

impl<T: Float> Fused<T> {
    /// Uploads the inputs and runs the forward pass.
    pub fn new(stream: &Stream, case: Case, inputs: &Inputs<T>) -> Outcome<Self> {
        let device = stream.device();
        let Case { rows, columns, .. } = case;
        let matrix = || device.zeros(rows * columns);
        let mut fused = Self {
            case,
            rng: device.upload(&rng_state(SEED, STEP))?,
            input: device.upload(&inputs.input)?,
            bias: device.upload(&inputs.bias)?,
            residual: device.upload(&inputs.residual)?,
            d_output: device.upload(&inputs.d_output)?,
            gamma: device.upload(&inputs.gamma)?,
            beta: device.upload(&inputs.beta)?,
            output: matrix()?,
            sum: matrix()?,
            mean: device.zeros(rows)?,
            rstd: device.zeros(rows)?,
            d_input: matrix()?,
            d_residual: matrix()?,
            d_gamma: device.zeros(columns)?,
            d_beta: device.zeros(columns)?,
            d_bias: device.zeros(columns)?,
            workspace: layer_norm::workspace(rows, columns).allocate(device)?,
        };
        fused.forward(stream)?;
        Ok(fused)
    }

    pub fn forward(&mut self, stream: &Stream) -> Outcome<()> {
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
                bias: self.case.bias.then(|| self.bias.view()),
                dropout: dropout(self.case, &self.rng),
                residual: self.case.residual.then(|| self.residual.matrix(rows, columns)).transpose()?,
                sum: Some(self.sum.matrix_mut(rows, columns)?),
            },
        };
        Ok(layer_norm::forward(stream, forward)?)
    }

    pub fn backward(&mut self, stream: &Stream) -> Outcome<()> {
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
                dropout: dropout(self.case, &self.rng),
                d_residual: Some(self.d_residual.matrix_mut(rows, columns)?),
                d_bias: self.case.d_bias.then(|| self.d_bias.view_mut()),
            },
        };
        Ok(layer_norm::backward(stream, backward)?)
    }
}

fn dropout(case: Case, rng: &Buffer<u32>) -> Option<ops::Dropout<'_>> {
    (case.dropout > 0.0).then(|| ops::Dropout { rng: rng.view(), rate: case.dropout, site: SITE })
}

impl<T: Float> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        match self.case.pass {
            Pass::Forward => self.forward(stream),
            Pass::Backward => self.backward(stream),
        }
    }

    fn results(&mut self) -> Outcome<Results> {
        if self.case.pass == Pass::Forward {
            return Ok(named([("output", read(&self.output)?)]));
        }
        let mut results = named([
            ("output", read(&self.output)?),
            ("d_input", read(&self.d_input)?),
            ("d_residual", read(&self.d_residual)?),
            ("d_gamma", self.d_gamma.read()?),
            ("d_beta", self.d_beta.read()?),
        ]);
        if self.case.d_bias {
            results.push(("d_bias".into(), self.d_bias.read()?));
        }
        Ok(results)
    }
}

/// Kernels of the baseline.
struct Unfused<T: ModelFloat> {
    case: Case,
    input: Buffer<T>,
    bias: Buffer<f32>,
    residual: Buffer<T>,
    d_output: Buffer<T>,
    gamma: Buffer<f32>,
    beta: Buffer<f32>,
    layer: baseline::layer_norm::LayerNorm<T>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let (device, inputs) = (stream.device(), case.inputs::<T>());
        let dropout = (case.dropout > 0.0)
            .then(|| baseline::Dropout::new(stream, case.rows * case.columns, case.dropout, SITE));
        let layer =
            baseline::layer_norm::LayerNorm::new(stream, case.rows, case.columns, dropout.transpose()?, EPS)?;
        let mut unfused = Self {
            case,
            input: device.upload(&inputs.input)?,
            bias: device.upload(&inputs.bias)?,
            residual: device.upload(&inputs.residual)?,
            d_output: device.upload(&inputs.d_output)?,
            gamma: device.upload(&inputs.gamma)?,
            beta: device.upload(&inputs.beta)?,
            layer,
        };
        unfused.pass(stream, Pass::Forward)?;
        Ok(unfused)
    }

    fn pass(&mut self, stream: &Stream, pass: Pass) -> Outcome<()> {
        let parameters = baseline::layer_norm::Parameters {
            bias: self.case.bias.then(|| self.bias.view()),
            gamma: self.gamma.view(),
            beta: self.beta.view(),
        };
        let residual = self.case.residual.then(|| self.residual.view());
        match pass {
            Pass::Forward => self.layer.forward(stream, parameters, self.input.view(), residual)?,
            Pass::Backward => self.layer.backward(stream, parameters, self.d_output.view())?,
        }
        Ok(())
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.pass(stream, self.case.pass)
    }

    fn results(&mut self) -> Outcome<Results> {
        if self.case.pass == Pass::Forward {
            return Ok(named([("output", read(&self.layer.output)?)]));
        }
        let mut d_gamma = self.layer.d_parameters.read()?;
        let d_beta = d_gamma.split_off(self.case.columns);
        let mut results = named([
            ("output", read(&self.layer.output)?),
            ("d_input", read(self.layer.d_input())?),
            ("d_residual", read(&self.layer.d_residual)?),
            ("d_gamma", d_gamma),
            ("d_beta", d_beta),
        ]);
        if self.case.d_bias {
            results.push(("d_bias".into(), self.layer.d_bias.read()?));
        }
        Ok(results)
    }
}
