//! One AdamW step over a flat arena, gradients clipped by a norm that is given; on a GPU the bf16 copy of the weights is part of it.
//!
//! Bound: no products; 28 bytes a parameter (weight, gradient and two moments read, all but the gradient written), 30 with the copy.

use retromae::device::{Buffer, Stream, bf16};
use retromae::ops::adamw::{self, Hyperparameters};

use crate::harness::{Bench, Bound, FUSED, Outcome, Results, UNFUSED, Variant, Work, values};
use crate::{baseline, host_baseline};

/// BERT-base's parameters; weight decay leaves out biases and LayerNorm weights.
const BASE: Case = Case { count: 109_482_240, decayed: 109_360_128, copy: true };
const SMALL: Case = Case { count: 1_000_000, decayed: 999_000, copy: false };
/// Above the limit of 1, so that gradients are scaled.
const NORM: f32 = 3.0;

#[derive(Clone, Copy)]
struct Case {
    count: usize,
    decayed: usize,
    copy: bool,
}

impl Case {
    fn gradients(&self) -> Vec<f32> {
        values(2, self.count)
    }
}

pub fn bench(bench: &mut Bench) {
    let on_gpu = bench.on_gpu();
    let (name, case) = if on_gpu { ("base", BASE) } else { ("P1000000", SMALL) };
    let mut group = bench.group("adamw");
    let fused = Variant::new(FUSED, move |stream| state(stream, case).map(Fused));
    let unfused = if on_gpu {
        Variant::new(UNFUSED, move |stream| state(stream, case).map(Unfused))
    } else {
        Variant::new(UNFUSED, move |_| Ok(HostUnfused::new(case)))
    };
    let bytes_each = if case.copy { 30 } else { 28 };
    group.case(name, Bound::new(0, bytes_each * case.count), vec![fused, unfused]);
}

/// The first step.
fn schedule() -> [f32; 4] {
    Hyperparameters::default().schedule(1e-4, 1)
}

type State = baseline::adamw::AdamW;

fn state(stream: &Stream, case: Case) -> Outcome<State> {
    let device = stream.device();
    Ok(State {
        parameters: device.upload(&values(1, case.count))?,
        gradients: device.upload(&case.gradients())?,
        first_moments: device.zeros(case.count)?,
        second_moments: device.zeros(case.count)?,
        compute_parameters: case.copy.then(|| device.zeros::<bf16>(case.count)).transpose()?,
        squared_norm: device.upload(&[NORM * NORM])?,
        schedule: device.upload(&schedule())?,
        decayed: case.decayed,
        hyperparameters: Hyperparameters::default(),
    })
}

fn state_results(state: &State) -> Outcome<Results> {
    results(state.parameters.read()?, state.first_moments.read()?, state.second_moments.read()?)
}

fn results(parameters: Vec<f32>, first: Vec<f32>, second: Vec<f32>) -> Outcome<Results> {
    let arrays = [("parameters", parameters), ("first_moments", first), ("second_moments", second)];
    Ok(arrays.into_iter().map(|(name, values)| (name.to_string(), values)).collect())
}

struct Fused(State);

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let state = &mut self.0;
        let step = adamw::Step {
            parameters: state.parameters.view_mut(),
            gradients: state.gradients.view(),
            first_moments: state.first_moments.view_mut(),
            second_moments: state.second_moments.view_mut(),
            compute_parameters: state.compute_parameters.as_mut().map(Buffer::view_mut),
            squared_norm: state.squared_norm.view(),
            schedule: state.schedule.view(),
            decayed: state.decayed,
            hyperparameters: state.hyperparameters,
        };
        Ok(adamw::step(stream, step)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        state_results(&self.0)
    }
}

/// Clipping changes the gradients in place, from run to run: only the first run is compared, and the time is the same.
struct Unfused(State);

impl Work for Unfused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        Ok(self.0.step(stream)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        state_results(&self.0)
    }
}

/// The baseline in plain Rust.
struct HostUnfused {
    decayed: usize,
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    state: host_baseline::adamw::AdamW,
}

impl HostUnfused {
    fn new(case: Case) -> Self {
        Self {
            decayed: case.decayed,
            parameters: values(1, case.count),
            gradients: case.gradients(),
            state: host_baseline::adamw::AdamW::new(case.count),
        }
    }
}

impl Work for HostUnfused {
    fn run(&mut self, _: &Stream) -> Outcome<()> {
        let hyperparameters = Hyperparameters::default();
        let Self { decayed, parameters, gradients, state } = self;
        state.step(parameters, gradients, NORM, &hyperparameters, schedule(), *decayed);
        Ok(())
    }

    fn results(&mut self) -> Outcome<Results> {
        let host_baseline::adamw::AdamW { first_moments, second_moments, .. } = &self.state;
        results(self.parameters.clone(), first_moments.clone(), second_moments.clone())
    }
}
