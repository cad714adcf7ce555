//! One AdamW step over a flat arena, the norm of the gradients and their clipping included; on a GPU also the bf16 copy of the weights.
//!
//! Bound: no products; 32 bytes a parameter (the gradient read for the norm; weight, gradient and two moments read, all but the gradient
//! written), 34 with the copy.

use retromae::device::{Buffer, Stream, bf16};
use retromae::ops::adamw::{self, Hyperparameters};
use retromae::ops::reduce;

use crate::harness::{Bench, Bound, FUSED, Outcome, Rank, Results, UNFUSED, Variant, Work, values};
use crate::{baseline, host_baseline};

/// BERT-base's parameters, a multiple of 8 of them; weight decay leaves out biases and LayerNorm weights.
const BASE: Case = Case { count: 109_514_304, decayed: 109_360_128, copy: true };
const SMALL: Case = Case { count: 1_000_000, decayed: 999_000, copy: false };

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
    let bytes_each = if case.copy { 34 } else { 32 };
    group.case(Rank::Headline, name, Bound::new(0, bytes_each * case.count), vec![fused, unfused]);
}

/// The first step.
fn schedule() -> [f32; 4] {
    Hyperparameters::default().schedule(1e-4, 1).expect("a rate and a step that are in range")
}

/// What both sides work on, with room for the partial sums of the norm.
struct State {
    arena: baseline::adamw::AdamW<bf16>,
    workspace: Buffer<u8>,
}

fn state(stream: &Stream, case: Case) -> Outcome<State> {
    let device = stream.device();
    let arena = baseline::adamw::AdamW {
        parameters: device.upload(&values(1, case.count))?,
        gradients: device.upload(&case.gradients())?,
        first_moments: device.zeros(case.count)?,
        second_moments: device.zeros(case.count)?,
        compute_parameters: case.copy.then(|| device.zeros::<bf16>(case.count)).transpose()?,
        squared_norm: device.zeros(1)?,
        schedule: device.upload(&schedule())?,
        decayed: case.decayed,
        hyperparameters: Hyperparameters::default(),
    };
    Ok(State { arena, workspace: reduce::workspace(case.count).allocate(device)? })
}

impl State {
    fn norm(&mut self, stream: &Stream) -> Outcome<()> {
        let squares = reduce::Arguments {
            input: self.arena.gradients.view(),
            output: self.arena.squared_norm.view_mut(),
            accumulate: false,
            workspace: self.workspace.view_mut(),
        };
        Ok(reduce::squares(stream, squares)?)
    }
}

fn state_results(state: &State) -> Outcome<Results> {
    let arena = &state.arena;
    results(arena.parameters.read()?, arena.first_moments.read()?, arena.second_moments.read()?)
}

fn results(parameters: Vec<f32>, first: Vec<f32>, second: Vec<f32>) -> Outcome<Results> {
    let arrays = [("parameters", parameters), ("first_moments", first), ("second_moments", second)];
    Ok(arrays.into_iter().map(|(name, values)| (name.to_string(), values)).collect())
}

/// Sets the gradients to 0: only the first run is compared, and the time is the same.
struct Fused(State);

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        self.0.norm(stream)?;
        let state = &mut self.0.arena;
        let step = adamw::Step {
            parameters: state.parameters.view_mut(),
            gradients: state.gradients.view_mut(),
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
        self.0.norm(stream)?;
        Ok(self.0.arena.step(stream)?)
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
        let norm = host_baseline::dot(gradients, gradients).sqrt();
        state.step(parameters, gradients, norm, &hyperparameters, schedule(), *decayed);
        Ok(())
    }

    fn results(&mut self) -> Outcome<Results> {
        let host_baseline::adamw::AdamW { first_moments, second_moments, .. } = &self.state;
        results(self.parameters.clone(), first_moments.clone(), second_moments.clone())
    }
}
