//! One AdamW step over a flat arena, including the norm of the gradients and their clipping; on a GPU also the bf16 copy of the weights.
//!
//! Bound: no matmuls; 32 bytes a parameter (the gradient read for the norm; weight, gradient and two moments read, all but the gradient written), 34
//! with the copy.

use retromae::device::{Buffer, ModelFloat, Stream, bf16};
use retromae::ops::adamw::{self, Hyperparameters};
use retromae::ops::{self, reduce};
use serde_json::{Value, json};

use super::baseline;
use super::data::{read, typed};
use super::{Bound, FUSED, Operation, Outcome, Results, Scale, UNFUSED, Variant, Work, named};

/// BERT-base's parameter count, a multiple of 8; weight decay skips biases and LayerNorm weights.
const BASE: Case = Case {
    name: "base",
    count: 109_514_304,
    decayed: 109_360_128,
    copy: true,
    learning_rate: 1e-4,
    weight_decay: 0.01,
};
const SMALL: Case = Case { name: "P1000000", count: 1_000_000, decayed: 999_000, copy: false, ..BASE };

/// Later than the first step, so that both bias corrections differ from 1.
const UPDATE: u32 = 3;

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub count: usize,
    pub decayed: usize,
    /// True to write a bf16 copy of the weights.
    pub copy: bool,
    pub learning_rate: f64,
    pub weight_decay: f64,
}

impl Case {
    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { weight_decay: self.weight_decay, ..Hyperparameters::default() }
    }
}

pub fn operations<T: ModelFloat>(scale: Scale) -> Vec<Operation<T>> {
    vec![Operation::new("adamw", [scale.choose(BASE, SMALL)])]
}

impl<T> super::Case<T> for Case {
    fn name(&self) -> String {
        self.name.into()
    }

    fn sizes(&self) -> Option<Value> {
        let Hyperparameters { beta1, beta2, eps, weight_decay, max_norm } = self.hyperparameters();
        Some(json!({
            "parameters": self.count,
            "learning_rate": self.learning_rate,
            "betas": [beta1, beta2],
            "eps": eps,
            "weight_decay": weight_decay,
            "max_norm": max_norm,
        }))
    }

    fn bound(&self) -> Bound {
        Bound::new(0, self.count * if self.copy { 34 } else { 32 })
    }

    fn variants(&self) -> Vec<Variant> {
        let case = *self;
        vec![
            Variant::new(FUSED, move |stream| State::new(stream, case).map(Fused)),
            Variant::new(UNFUSED, move |stream| State::new(stream, case).map(Unfused)),
        ]
    }
}

/// Weights, moments and gradients of either side, with room for the partial sums of the norm.
struct State {
    arena: baseline::adamw::AdamW<bf16>,
    workspace: Buffer<u8>,
}

impl State {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let hyperparameters = case.hyperparameters();
        let array = |seed| device.upload(&typed::<f32>(seed, case.count));
        let positive: Vec<f32> = typed::<f32>(4, case.count).into_iter().map(f32::abs).collect();
        let arena = baseline::adamw::AdamW {
            parameters: array(1)?,
            gradients: array(2)?,
            first_moments: array(3)?,
            second_moments: device.upload(&positive)?,
            compute_parameters: case.copy.then(|| device.zeros::<bf16>(case.count)).transpose()?,
            squared_norm: device.zeros(1)?,
            schedule: device.upload(&hyperparameters.schedule(case.learning_rate, UPDATE)?)?,
            decayed: case.decayed,
            hyperparameters,
        };
        Ok(Self { arena, workspace: reduce::workspace(case.count).allocate(device)? })
    }

    fn norm(&mut self, stream: &Stream) -> Outcome<()> {
        let squares = reduce::Arguments {
            input: self.arena.gradients.view(),
            output: self.arena.squared_norm.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        Ok(reduce::squares(stream, squares)?)
    }

    fn results(&self) -> Outcome<Results> {
        let arena = &self.arena;
        let mut results = named([
            ("parameters", arena.parameters.read()?),
            ("first_moments", arena.first_moments.read()?),
            ("second_moments", arena.second_moments.read()?),
        ]);
        if let Some(copy) = &arena.compute_parameters {
            results.push(("compute_parameters".into(), read(copy)?));
        }
        Ok(results)
    }
}

/// Takes the fused step.
pub fn step(stream: &Stream, arena: &mut baseline::adamw::AdamW<bf16>) -> ops::Result<()> {
    let step = adamw::Step {
        parameters: arena.parameters.view_mut(),
        gradients: arena.gradients.view_mut(),
        first_moments: arena.first_moments.view_mut(),
        second_moments: arena.second_moments.view_mut(),
        compute_parameters: arena.compute_parameters.as_mut().map(Buffer::view_mut),
        squared_norm: arena.squared_norm.view(),
        schedule: arena.schedule.view(),
        decayed: arena.decayed,
        hyperparameters: arena.hyperparameters,
    };
    adamw::step(stream, step)
}

/// Fused step. Sets the gradients to 0: only the first run is compared, and the time is the same.
struct Fused(State);

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.0.norm(stream)?;
        Ok(step(stream, &mut self.0.arena)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        self.0.results()
    }
}

/// Unfused step. Clipping changes the gradients in place from run to run: only the first run is compared, and the time is the same.
struct Unfused(State);

impl Work for Unfused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.0.norm(stream)?;
        Ok(self.0.arena.step(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        self.0.results()
    }
}
