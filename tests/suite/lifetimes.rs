//! Objects that outlive their origin: everything of a device dropped in any order, around captures and replays, while work is in flight.

use approx::abs_diff_eq;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use retromae::device::{Buffer, Device, Error, Event, Graph, HostOptions, Staging, Stream};
use retromae::model::{
    AdamW, DecoderKind, Input, MicroBatch, Model, QueryKind, StepHandle, StepRandomness, TrainStep,
};
use retromae::ops::reduce;

use crate::common::values;
use crate::model::{MASKING, SEED, config, model, parameters, sentences};
use crate::recorded::device;

/// More than one block of a sum, so that it has a workspace.
const COUNT: usize = 100_000;

/// Objects that may be dropped, each used by later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Device,
    Stream,
    Input,
    Workspace,
    Staging,
    Event,
    Graph,
}

const THINGS: [Thing; 7] = [
    Thing::Device,
    Thing::Stream,
    Thing::Input,
    Thing::Workspace,
    Thing::Staging,
    Thing::Event,
    Thing::Graph,
];

/// Time at which all is dropped, after the last work was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    InFlight,
    /// While this thread captures another stream.
    InCapture,
    /// After all work is done.
    Late,
}

/// A sum of squares from page-locked memory, and all that it needs; `None` is dropped.
struct Work {
    device: Option<Device>,
    stream: Option<Stream>,
    input: Option<Buffer<f32>>,
    workspace: Option<Buffer<u8>>,
    staging: Option<Staging<f32>>,
    event: Option<Event>,
    graph: Option<Graph>,
    output: Buffer<f32>,
}

impl Work {
    fn new(device: &Device) -> Self {
        let stream = device.new_stream().unwrap();
        let input = device.zeros::<f32>(COUNT).unwrap();
        let mut workspace = reduce::workspace(COUNT).allocate(device).unwrap();
        let mut output = device.zeros::<f32>(1).unwrap();
        let graph = stream.capture(|stream| {
            let arguments = reduce::Arguments {
                input: input.view(),
                output: output.view_mut(),
                accumulate: true,
                workspace: workspace.view_mut(),
            };
            reduce::squares(stream, arguments)
        });
        Self {
            device: Some(device.clone()),
            staging: Some(device.staging(COUNT).unwrap()),
            event: Some(stream.record().unwrap()),
            graph: Some(graph.unwrap()),
            stream: Some(stream),
            input: Some(input),
            workspace: Some(workspace),
            output,
        }
    }

    /// Uploads the values and adds up their squares, `replays` times.
    fn enqueue(&mut self, values: &[f32], replays: usize) {
        let (stream, staging) = (self.stream.as_ref().unwrap(), self.staging.as_mut().unwrap());
        staging.write().unwrap().copy_from_slice(values);
        staging.upload(stream, 0..COUNT, self.input.as_mut().unwrap().view_mut()).unwrap();
        for _ in 0..replays {
            // SAFETY: all buffers are alive, and nothing else uses them before the stream is done.
            unsafe { self.graph.as_ref().unwrap().launch(stream).unwrap() };
        }
        self.event = Some(stream.record().unwrap());
    }

    fn drop(&mut self, thing: Thing) {
        match thing {
            Thing::Device => drop(self.device.take()),
            Thing::Stream => drop(self.stream.take()),
            Thing::Input => drop(self.input.take()),
            Thing::Workspace => drop(self.workspace.take()),
            Thing::Staging => drop(self.staging.take()),
            Thing::Event => drop(self.event.take()),
            Thing::Graph => drop(self.graph.take()),
        }
    }
}

fn orders() -> impl Strategy<Value = (Vec<Thing>, When, usize)> {
    let whens = [When::InFlight, When::InCapture, When::Late];
    (Just(THINGS.to_vec()).prop_shuffle(), prop::sample::select(whens.to_vec()), 1usize..=3)
}

/// The device itself goes first or last; opening a fresh GPU each time would take too long.
#[test]
fn whatever_is_dropped_first_the_work_is_done() {
    let device = device();
    let values: Vec<f32> = values(3, COUNT).into_iter().map(|value| value as f32).collect();
    let once: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 60, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let right = |(order, when, replays): (Vec<Thing>, When, usize)| {
        let mut work = Work::new(&device);
        work.enqueue(&values, replays);
        let mut zeroed = device.upload(&[1.0f32; 4]).unwrap();
        let capturing = match when {
            When::InCapture => Some(device.new_stream().unwrap()),
            When::InFlight | When::Late => None,
        };
        if when == When::Late {
            work.stream.as_ref().unwrap().synchronize().unwrap();
        }
        let mut drop_all = || order.iter().for_each(|&thing| work.drop(thing));
        if let Some(stream) = capturing {
            let graph = stream.capture(|stream| {
                drop_all();
                stream.zero(zeroed.slice_mut(1..3))
            });
            // SAFETY: the buffer is alive, and the read waits.
            unsafe { graph.unwrap().launch(&stream).unwrap() };
            prop_assert_eq!(zeroed.read().unwrap(), [1.0, 0.0, 0.0, 1.0]);
        } else {
            drop_all();
        }
        let sum = f64::from(work.output.read().unwrap()[0]);
        let expected = once * replays as f64;
        prop_assert!(abs_diff_eq!(sum, expected, epsilon = 1e-5 * expected), "{} for {}", sum, expected);
        Ok(())
    };
    runner.run(&orders(), right).unwrap_or_else(|error| panic!("{error}"));
}

/// Buffers of a device work with a later handle of the same device, and a CPU emulator with options is always another device.
#[test]
fn a_device_is_one_in_a_process() {
    let source = Device::for_tests().unwrap().upload(&[1.0f32, 2.0]).unwrap();
    let again = std::thread::spawn(|| Device::for_tests().unwrap()).join().unwrap();
    let mut copy = again.zeros::<f32>(2).unwrap();
    again.stream().copy(copy.view_mut(), source.view()).unwrap();
    assert_eq!(copy.read().unwrap(), [1.0, 2.0]);

    let options = || Device::host_with(HostOptions::from_env().unwrap()).unwrap();
    for other in [options(), options()] {
        let mut copy = other.zeros::<f32>(2).unwrap();
        other.stream().copy(copy.view_mut(), source.view()).unwrap_err();
    }
}

/// A device that is dropped before its objects is released by the last of them.
#[test]
fn a_device_lives_as_long_as_anything_of_it() {
    for last in THINGS {
        let device = device();
        let mut work = Work::new(&device);
        work.enqueue(&vec![1.0; COUNT], 1);
        drop(device);
        for thing in THINGS.into_iter().filter(|&thing| thing != last) {
            work.drop(thing);
        }
        let Work { output, .. } = &work;
        assert_eq!(output.read().unwrap(), [COUNT as f32], "{last:?} is left");
    }
}

fn train(model: &mut Model<f32>, stream: &Stream, update: u32) -> Result<StepHandle, retromae::ops::Error> {
    let sentences = sentences();
    let step = TrainStep {
        batch: MicroBatch::new(
            Input::Sampled(&sentences, MASKING),
            StepRandomness { seed: SEED, step: update },
        ),
        optimizer: &AdamW::default(),
        learning_rate: 1e-3,
        update,
    };
    model.train_step(stream, &step)
}

/// A model with recorded steps is dropped while one is in flight, before or after the stream and within a capture; another model trains on
/// unaffected.
#[test]
fn a_model_may_be_dropped_while_its_step_runs() {
    let device = device();
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.1);
    let parameters = parameters(&config);
    let outcomes = |stream: &Stream| {
        let mut model = model::<f32>(&device, &config, &parameters);
        model.record_steps(true);
        let mut steps = (1..=3).map(|update| {
            let handle = train(&mut model, stream, update).unwrap();
            model.result(handle).unwrap()
        });
        [(); 3].map(|()| steps.next().unwrap())
    };
    let expected = outcomes(&device.stream());
    for way in 0..3 {
        let (stream, capturing) = (device.new_stream().unwrap(), device.new_stream().unwrap());
        let mut dropped = model::<f32>(&device, &config, &parameters);
        dropped.record_steps(true);
        for update in 1..=3 {
            train(&mut dropped, &stream, update).unwrap();
        }
        match way {
            0 => drop((dropped, stream)),
            1 => drop((stream, dropped)),
            _ => {
                let captured = capturing.capture(|_| {
                    drop((dropped, stream));
                    Ok::<_, Error>(())
                });
                captured.unwrap();
            }
        }
        assert_eq!(outcomes(&device.new_stream().unwrap()), expected, "way {way}");
    }
}
