//! One AdamW step over a flat arena, including the norm of the gradients and their clipping; on a GPU also the bf16 copy of the weights.
//!
//! Bound: no matmuls; 32 bytes a parameter (the gradient read for the norm; weight, gradient and two moments read, all but the gradient written), 34
//! with the copy.

use retromae::device::{Buffer, Stream, bf16};
use retromae::ops::adamw::{self, Hyperparameters};
use retromae::ops::reduce;

use crate::baseline;
use crate::harness::{Bench, Bound, FUSED, Outcome, Rank, Results, UNFUSED, Variant, Work, values};

/// BERT-base's parameter count, a multiple of 8; weight decay skips biases and LayerNorm weights.
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
    let (name, case) = if bench.on_gpu() { ("base", BASE) } else { ("P1000000", SMALL) };
    let mut group = bench.group("adamw");
    let fused = Variant::new(FUSED, move |stream| state(stream, case).map(Fused));
    let unfused = Variant::new(UNFUSED, move |stream| state(stream, case).map(Unfused));
    let bytes_each = if case.copy { 34 } else { 32 };
    group.case(Rank::Headline, name, Bound::new(0, bytes_each * case.count), vec![fused, unfused]);
}

/// Returns the schedule of the first step.
fn schedule() -> [f32; 4] {
    Hyperparameters::default().schedule(1e-4, 1).expect("a rate and a step that are in range")
}

/// Buffers of either side, with room for the partial sums of the norm.
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
    let arrays = [
        ("parameters", &arena.parameters),
        ("first_moments", &arena.first_moments),
        ("second_moments", &arena.second_moments),
    ];
    arrays.into_iter().map(|(name, buffer)| Ok((name.to_string(), buffer.read()?))).collect()
}

/// Fused step. Sets the gradients to 0: only the first run is compared, and the time is the same.
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

/// Unfused step. Clipping changes the gradients in place from run to run: only the first run is compared, and the time is the same.
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
