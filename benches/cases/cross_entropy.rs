//! Output layer and cross-entropy, forward and backward in one.
//!
//! Bound, with M rows, H columns, V words: 6·M·H·V FLOPs (logits, two gradients); bytes: hidden rows and their gradient 2·M·H·e, weight
//! V·H·e, its gradient, which is added to, 8·V·H.

use retromae::device::{Buffer, DType, Device, Float, ModelFloat, Stream};
use retromae::model::IGNORE_INDEX;
use retromae::ops;
use retromae::ops::cross_entropy::{self, Algorithm, Forward, Gradients, Options, Totals};
use serde_json::{Value, json};

use super::baseline;
use super::data::{integers, read, rounded, typed, values};
use super::{
    Bound, FUSED, OWN_PRODUCT, Operation, Outcome, Rank, Results, Scale, UNFUSED, Variant, Work, named,
};

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub rows: usize,
    pub hidden_size: usize,
    pub vocabulary: usize,
    /// Rows of logits that the fused operation holds at once; the baseline holds all.
    pub chunk: usize,
    /// True if every third row has no target.
    pub ignores: bool,
    pub rank: Rank,
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    let (hidden_size, vocabulary, chunk) = scale.choose((768, 30_522, 4096), (128, 8192, 256));
    let (sizes, headline) =
        scale.choose((&[4096, 8192, 16_384, 32_768, 65_536][..], 32_768), (&[1024], 1024));
    let case = |&rows: &usize| {
        let rank = Rank::headline(rows == headline);
        Case { rows, hidden_size, vocabulary, chunk, ignores: false, rank }
    };
    vec![Operation::new("cross_entropy", sizes.iter().map(case))]
}

impl<T: ModelFloat> super::Case<T> for Case {
    fn name(&self) -> String {
        format!("M{}", self.rows)
    }

    fn rank(&self) -> Rank {
        self.rank
    }

    fn sizes(&self) -> Option<Value> {
        Some(json!({"rows": self.rows, "hidden_size": self.hidden_size, "vocab_size": self.vocabulary}))
    }

    fn bound(&self) -> Bound {
        let (hidden, weight) = (self.rows * self.hidden_size, self.vocabulary * self.hidden_size);
        let bytes = T::DTYPE.bytes();
        Bound::new(6 * hidden * self.vocabulary, 2 * hidden * bytes + weight * (bytes + 8))
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        let ours = |name, algorithm| {
            let way = Way::full(algorithm, case.chunk);
            Variant::new(name, move |stream| Ok(Fused::<T>::new(stream.device(), &case.inputs(), way)?))
        };
        let unfused = Variant::new(UNFUSED, move |stream| Unfused::<T>::new(stream, case));
        let mut variants = vec![ours(FUSED, Algorithm::Library), unfused];
        if T::DTYPE == DType::Bf16 {
            variants.insert(1, ours(OWN_PRODUCT, Algorithm::Fused));
        }
        variants
    }
}

impl Case {
    fn inputs<T: Float>(&self) -> Inputs<T> {
        let inputs = Inputs::random(self.rows, self.vocabulary, self.hidden_size);
        let targets = if self.ignores { inputs.targets } else { targets(self.rows, self.vocabulary) };
        Inputs { targets, ..inputs }
    }
}

fn targets(rows: usize, vocabulary: usize) -> Vec<i32> {
    integers(4, rows, vocabulary as u32)
}

/// Host data of a case.
#[derive(Clone)]
pub struct Inputs<T> {
    pub hidden: Vec<T>,
    pub weight: Vec<T>,
    pub bias: Vec<f32>,
    pub targets: Vec<i32>,
    pub row_weights: Vec<f32>,
    pub hidden_size: usize,
    pub options: Options,
}

impl<T: Float> Inputs<T> {
    /// Random inputs with logits of about [-4, 4], every third row ignored.
    pub fn random(rows: usize, vocabulary: usize, hidden_size: usize) -> Self {
        let spread = 2.0 / (hidden_size as f64).sqrt();
        let weight: Vec<f64> = values(2, vocabulary * hidden_size).iter().map(|v| v * spread).collect();
        let target = |(row, id)| if row % 3 == 2 { IGNORE_INDEX } else { id };
        let row_weight = |v: &f64| ((1.5 + v.abs()) / rows as f64) as f32;
        Self {
            hidden: typed(1, rows * hidden_size),
            weight: rounded(&weight),
            bias: typed(3, vocabulary),
            targets: targets(rows, vocabulary).into_iter().enumerate().map(target).collect(),
            row_weights: values(5, rows).iter().map(row_weight).collect(),
            hidden_size,
            options: Options::default(),
        }
    }

    pub fn with(self, options: Options) -> Self {
        Self { options, ..self }
    }

    pub fn rows(&self) -> usize {
        self.targets.len()
    }

    pub fn vocabulary(&self) -> usize {
        self.bias.len()
    }

    pub fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            hidden: self.hidden[rows.start * self.hidden_size..rows.end * self.hidden_size].to_vec(),
            targets: self.targets[rows.clone()].to_vec(),
            row_weights: self.row_weights[rows].to_vec(),
            ..self.clone()
        }
    }
}

/// The optional arguments that are given.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub bias: bool,
    pub row_weights: bool,
    pub log_sum_exp: bool,
    pub log_likelihoods: bool,
    pub correct: bool,
    pub totals: bool,
    pub d_hidden: bool,
    pub d_weight: bool,
    pub d_bias: bool,
}

pub const FULL: Form = Form {
    bias: true,
    row_weights: true,
    log_sum_exp: true,
    log_likelihoods: true,
    correct: true,
    totals: true,
    d_hidden: true,
    d_weight: true,
    d_bias: true,
};

impl Form {
    pub fn has_gradients(self) -> bool {
        self.d_hidden || self.d_weight || self.d_bias
    }
}

/// Options of a call.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    pub algorithm: Algorithm,
    /// Rows that fit the workspace.
    pub chunk: usize,
    /// Ends of the groups, except the last.
    pub group_ends: &'a [usize],
    pub form: Form,
}

impl Way<'static> {
    /// Returns the full call, of one group.
    pub fn full(algorithm: Algorithm, chunk: usize) -> Self {
        Self { algorithm, chunk, group_ends: &[], form: FULL }
    }
}

/// The operation by one of its algorithms.
pub struct Fused<T: Float> {
    algorithm: Algorithm,
    form: Form,
    options: Options,
    hidden_size: usize,
    /// Ends of all groups.
    group_ends: Vec<usize>,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    targets: Buffer<i32>,
    row_weights: Buffer<f32>,
    pub losses: Buffer<f32>,
    pub log_sum_exp: Buffer<f32>,
    pub log_likelihoods: Buffer<f32>,
    pub correct: Buffer<u8>,
    pub totals: Buffer<Totals>,
    pub d_hidden: Buffer<T>,
    pub d_weight: Buffer<f32>,
    pub d_bias: Buffer<f32>,
    pub workspace: Buffer<u8>,
}

impl<T: Float> Fused<T> {
    pub fn new(device: &Device, inputs: &Inputs<T>, way: Way<'_>) -> ops::Result<Self> {
        let (rows, vocabulary, hidden_size) = (inputs.rows(), inputs.vocabulary(), inputs.hidden_size);
        let group_ends = [way.group_ends, &[rows]].concat();
        let Way { algorithm, chunk, form, .. } = way;
        let workspace = if form.has_gradients() {
            cross_entropy::workspace(algorithm, T::DTYPE, chunk, hidden_size, vocabulary)
        } else {
            cross_entropy::forward_workspace(algorithm, T::DTYPE, chunk, hidden_size, vocabulary)
        };
        Ok(Self {
            algorithm,
            form,
            options: inputs.options,
            hidden_size,
            hidden: device.upload(&inputs.hidden)?,
            weight: device.upload(&inputs.weight)?,
            bias: device.upload(&inputs.bias)?,
            targets: device.upload(&inputs.targets)?,
            row_weights: device.upload(&inputs.row_weights)?,
            losses: device.zeros(rows)?,
            log_sum_exp: device.zeros(rows)?,
            log_likelihoods: device.zeros(rows)?,
            correct: device.zeros(rows)?,
            totals: device.zeros(group_ends.len())?,
            group_ends,
            d_hidden: device.zeros(inputs.hidden.len())?,
            d_weight: device.zeros(inputs.weight.len())?,
            d_bias: device.zeros(vocabulary)?,
            workspace: workspace.allocate(device)?,
        })
    }

    /// Enqueues the call; the gradients of weight and bias are added to.
    pub fn call(&mut self, stream: &Stream) -> ops::Result<()> {
        let (form, hidden_size) = (self.form, self.hidden_size);
        let (rows, vocabulary) = (self.targets.len(), self.bias.len());
        let arguments = Forward {
            bias: form.bias.then(|| self.bias.view()),
            row_weights: form.row_weights.then(|| self.row_weights.view()),
            options: self.options,
            algorithm: self.algorithm,
            log_sum_exp: form.log_sum_exp.then(|| self.log_sum_exp.view_mut()),
            log_likelihoods: form.log_likelihoods.then(|| self.log_likelihoods.view_mut()),
            correct: form.correct.then(|| self.correct.view_mut()),
            totals: form.totals.then(|| self.totals.view_mut()),
            group_ends: &self.group_ends,
            ..Forward::new(
                self.hidden.matrix(rows, hidden_size)?,
                self.weight.matrix(vocabulary, hidden_size)?,
                self.targets.view(),
                self.losses.view_mut(),
                self.workspace.view_mut(),
            )
        };
        if !form.has_gradients() {
            return cross_entropy::forward(stream, arguments);
        }
        let (d_hidden, d_weight) = (
            self.d_hidden.matrix_mut(rows, hidden_size)?,
            self.d_weight.matrix_mut(vocabulary, hidden_size)?,
        );
        let gradients = Gradients {
            d_hidden: form.d_hidden.then_some(d_hidden),
            d_weight: form.d_weight.then_some(d_weight),
            d_bias: form.d_bias.then(|| self.d_bias.view_mut()),
        };
        cross_entropy::forward_backward(stream, arguments, gradients)
    }
}

impl<T: Float> Work for Fused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        Ok(self.call(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        Ok(named([
            ("losses", self.losses.read()?),
            ("d_hidden", read(&self.d_hidden)?),
            ("d_weight", self.d_weight.read()?),
            ("d_bias", self.d_bias.read()?),
        ]))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(self.workspace.len())
    }
}

/// Kernels and matmuls of the baseline, with a padded vocabulary.
struct Unfused<T: ModelFloat> {
    case: Case,
    hidden: Buffer<T>,
    weight: Buffer<T>,
    bias: Buffer<f32>,
    d_weight: Buffer<f32>,
    d_bias: Buffer<f32>,
    layer: baseline::cross_entropy::CrossEntropy<T>,
}

impl<T: ModelFloat> Unfused<T> {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let vocabulary = baseline::cross_entropy::padded(case.vocabulary);
        let elements = vocabulary * case.hidden_size;
        let Inputs { hidden, mut weight, mut bias, targets, row_weights, .. } = case.inputs::<T>();
        weight.resize(elements, T::from_f32(0.0));
        bias.resize(vocabulary, f32::NEG_INFINITY);
        Ok(Self {
            hidden: device.upload(&hidden)?,
            weight: device.upload(&weight)?,
            bias: device.upload(&bias)?,
            d_weight: device.zeros(elements)?,
            d_bias: device.zeros(vocabulary)?,
            layer: baseline::cross_entropy::CrossEntropy::new(
                stream,
                case.hidden_size,
                vocabulary,
                &targets,
                &row_weights,
            )?,
            case,
        })
    }
}

impl<T: ModelFloat> Work for Unfused<T> {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        use baseline::cross_entropy::{Gradients, Weights};
        let weights = Weights { weight: self.weight.view(), bias: self.bias.view() };
        let gradients = Gradients { weight: self.d_weight.view_mut(), bias: self.d_bias.view_mut() };
        Ok(self.layer.forward_backward(stream, weights, self.hidden.view(), gradients)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let unpadded = |buffer: &Buffer<f32>, columns| -> Outcome<_> {
            let mut values = buffer.read()?;
            let padding = values.split_off(self.case.vocabulary * columns);
            match padding.iter().all(|&value| value == 0.0) {
                true => Ok(values),
                false => Err("the padding has a gradient".into()),
            }
        };
        Ok(named([
            ("losses", self.layer.losses.read()?),
            ("d_hidden", read(&self.layer.d_hidden)?),
            ("d_weight", unpadded(&self.d_weight, self.case.hidden_size)?),
            ("d_bias", unpadded(&self.d_bias, 1)?),
        ]))
    }

    fn extra_bytes(&self) -> Option<usize> {
        Some(self.layer.extra_bytes())
    }
}
