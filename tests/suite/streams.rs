//! Streams, events, staging memory and graphs, on every device.

use std::time::Duration;

use crate::common::{devices, values};
use retromae::device::{Buffer, Device, Error, HostOptions, LaunchShape, Stream};
use retromae::ops::{self, bias_gelu, rows};

pub const COUNT: usize = 1000;

pub fn floats(seed: u64) -> Vec<f32> {
    values(seed, COUNT).into_iter().map(|value| value as f32).collect()
}

/// `output = GELU(input + bias)`.
pub fn gelu(
    stream: &Stream,
    input: &Buffer<f32>,
    bias: &Buffer<f32>,
    output: &mut Buffer<f32>,
) -> ops::Result<()> {
    let forward = bias_gelu::Forward {
        input: input.view().rows_of(8)?,
        bias: bias.view(),
        output: output.view_mut().rows_of(8)?,
    };
    bias_gelu::forward(stream, forward)
}

#[test]
fn a_stream_waits_for_another_and_a_read_for_all() {
    for device in devices() {
        let [first, second] = [(); 2].map(|()| device.new_stream().unwrap());
        let bias = device.zeros::<f32>(8).unwrap();
        let input = device.upload(&floats(1)).unwrap();
        let [mut middle, mut output] = [(); 2].map(|()| device.zeros::<f32>(COUNT).unwrap());
        gelu(&first, &input, &bias, &mut middle).unwrap();
        second.wait(&first.record().unwrap()).unwrap();
        gelu(&second, &middle, &bias, &mut output).unwrap();
        let two_streams = output.read().unwrap();

        let stream = device.stream();
        gelu(&stream, &input, &bias, &mut middle).unwrap();
        gelu(&stream, &middle, &bias, &mut output).unwrap();
        assert_eq!(two_streams, output.read().unwrap());
        assert!(two_streams.iter().any(|&value| value > 0.5));
    }
}

/// A buffer freed while a stream still reads it stays valid until then.
#[test]
fn a_buffer_may_be_dropped_while_it_is_read() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let bias = device.zeros::<f32>(8).unwrap();
        let mut outputs: Vec<Buffer<f32>> = (0..4).map(|_| device.zeros(COUNT).unwrap()).collect();
        for (seed, output) in (0..).zip(&mut outputs) {
            let input = device.upload(&floats(seed)).unwrap();
            gelu(&stream, &input, &bias, output).unwrap();
        }
        drop(stream);
        for (seed, output) in (0..).zip(&outputs) {
            let mut expected = device.zeros(COUNT).unwrap();
            gelu(&device.stream(), &device.upload(&floats(seed)).unwrap(), &bias, &mut expected).unwrap();
            assert_eq!(output.read().unwrap(), expected.read().unwrap());
        }
    }
}

#[test]
fn staging_memory_carries_data_both_ways() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let mut there = device.staging::<f32>(COUNT).unwrap();
        let mut back = device.staging::<f32>(2 * COUNT).unwrap();
        let mut buffer = device.zeros::<f32>(COUNT).unwrap();
        assert!(there.read().unwrap().iter().all(|&value| value == 0.0));
        for seed in 1..4 {
            there.write().unwrap().copy_from_slice(&floats(seed));
            there.upload(&stream, 0..COUNT, buffer.view_mut()).unwrap();
            back.download(&stream, 0..COUNT, buffer.view()).unwrap();
            stream.zero(buffer.slice_mut(1..COUNT)).unwrap();
            back.download(&stream, COUNT..2 * COUNT, buffer.view()).unwrap();
            let back = back.read().unwrap();
            assert_eq!(back[..COUNT], floats(seed));
            assert!(back[COUNT] == floats(seed)[0] && back[COUNT + 1..].iter().all(|&value| value == 0.0));
        }
        let message = there.upload(&stream, 0..7, buffer.view_mut()).unwrap_err().to_string();
        assert_eq!(message, "destination is 1000 elements; it should be 7 elements, as range 0..7");
        let message = there.upload(&stream, 5..1001, buffer.slice_mut(0..996)).unwrap_err().to_string();
        assert_eq!(message, "range is 5..1001; it should be within 0..1000");
    }
}

/// Returned staging memory may be lent again, and is zeroed then.
#[test]
fn staging_memory_begins_with_zeros() {
    for device in devices() {
        for length in [COUNT, COUNT - 1, COUNT] {
            let mut staging = device.staging::<f32>(length).unwrap();
            assert!(staging.read().unwrap().iter().all(|&value| value == 0.0));
            staging.write().unwrap().fill(f32::NAN);
        }
    }
}

/// Copies on several streams are all waited for before the host's memory changes.
#[test]
fn staging_memory_is_not_overwritten_before_every_stream_has_copied_it() {
    for device in devices() {
        let streams = [(); 3].map(|()| device.new_stream().unwrap());
        let mut buffers = [(); 3].map(|()| device.zeros::<f32>(COUNT).unwrap());
        let mut staging = device.staging::<f32>(COUNT).unwrap();
        staging.write().unwrap().fill(1.0);
        for (stream, buffer) in streams.iter().zip(&mut buffers) {
            staging.upload(stream, 0..COUNT, buffer.view_mut()).unwrap();
        }
        staging.write().unwrap().fill(2.0);
        for buffer in &buffers {
            assert_eq!(buffer.read().unwrap(), [1.0; COUNT]);
        }
    }
}

#[test]
fn copies_and_zeros_come_in_order() {
    for device in devices() {
        let stream = device.stream();
        let source = device.upload(&floats(1)).unwrap();
        let mut copy = device.upload(&floats(2)).unwrap();
        stream.copy(copy.slice_mut(0..500), source.slice(500..1000)).unwrap();
        stream.zero(copy.slice_mut(0..10)).unwrap();
        let (read, expected) = (copy.read().unwrap(), [&floats(1)[500..], &floats(2)[500..]].concat());
        assert!(read[..10].iter().all(|&value| value == 0.0));
        assert_eq!(read[10..], expected[10..]);
        let message = stream.copy(copy.slice_mut(0..5), source.slice(0..4)).unwrap_err().to_string();
        assert_eq!(message, "source is 4 elements; it should be 5 elements, as destination");
    }
}

#[test]
fn events_measure_the_time_between_them() {
    let device = &devices()[0];
    let stream = device.stream();
    let earlier = stream.record().unwrap();
    let bias = device.zeros::<f32>(8).unwrap();
    let input = device.upload(&floats(1)).unwrap();
    let mut output = device.zeros::<f32>(COUNT).unwrap();
    gelu(&stream, &input, &bias, &mut output).unwrap();
    let later = stream.record().unwrap();
    later.synchronize().unwrap();
    let elapsed = later.elapsed_since(&earlier).unwrap();
    assert!(elapsed > Duration::ZERO && elapsed < Duration::from_secs(60), "{elapsed:?}");
}

/// A graph does nothing until it is launched, and then reads the current memory.
#[test]
fn a_graph_replays_what_was_recorded() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let bias = device.zeros::<f32>(8).unwrap();
        let mut input = device.upload(&floats(1)).unwrap();
        let [mut middle, mut output] = [(); 2].map(|()| device.zeros::<f32>(COUNT).unwrap());
        let graph = stream
            .capture(|stream| {
                gelu(stream, &input, &bias, &mut middle)?;
                gelu(stream, &middle, &bias, &mut output)?;
                Ok::<_, ops::Error>(stream.zero(middle.view_mut())?)
            })
            .unwrap();
        assert_eq!(graph.kernels(), ["bias_gelu_forward_f32"; 2]);
        assert!(output.read().unwrap().iter().all(|&value| value == 0.0));
        for seed in [2, 3] {
            input.write(&floats(seed)).unwrap();
            // SAFETY: all buffers are alive, and reads wait.
            unsafe { graph.launch(&stream).unwrap() };
            let replayed = output.read().unwrap();
            assert!(middle.read().unwrap().iter().all(|&value| value == 0.0));
            gelu(&stream, &input, &bias, &mut middle).unwrap();
            gelu(&stream, &middle, &bias, &mut output).unwrap();
            assert_eq!(replayed, output.read().unwrap());
        }
    }
}

/// A launch that does not fit is refused when it is requested.
#[test]
fn a_wrong_launch_is_refused_while_it_is_recorded() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let error = stream
            .capture(|stream| {
                let shape = LaunchShape { grid: [1, 1, 1], threads: 7, shared_bytes: 0 };
                // SAFETY: it is refused.
                unsafe { stream.launch_shape("bias_gelu_forward_f32", shape, &[0u64; 4]) }
            })
            .unwrap_err();
        assert!(matches!(error, Error::Launch { argument: "threads", .. }), "{error}");
    }
}

/// An address of one device is invalid on another.
#[test]
fn arguments_of_another_device_are_refused() {
    let (device, other) = (&devices()[0], Device::host_with(HostOptions::default()).unwrap());
    let stream = device.stream();
    let bias = device.zeros::<f32>(8).unwrap();
    let foreign = other.upload(&floats(1)).unwrap();
    let mut output = device.zeros::<f32>(COUNT).unwrap();
    let message = gelu(&stream, &foreign, &bias, &mut output).unwrap_err().to_string();
    assert!(message.starts_with("input is of device "), "{message}");
    assert!(message.ends_with("as all of a call"), "{message}");

    let rows = other.zeros::<i32>(1).unwrap();
    let mut row = device.zeros::<f32>(8).unwrap();
    let gather = rows::Gather {
        input: output.view().rows_of(8).unwrap(),
        rows: rows.view(),
        output: row.matrix_mut(1, 8).unwrap(),
    };
    assert!(rows::gather(&stream, gather).unwrap_err().to_string().starts_with("rows is of device "));

    let mut staging = other.staging::<f32>(8).unwrap();
    let message = staging.upload(&stream, 0..8, row.view_mut()).unwrap_err().to_string();
    assert!(message.starts_with("destination is of"), "{message}");
    let event = other.stream().record().unwrap();
    assert!(stream.wait(&event).unwrap_err().to_string().starts_with("event is of"));
}
