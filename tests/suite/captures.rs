//! Calls that a capture refuses, and work that goes on beside it: the same on every device.

use std::time::Duration;

use retromae::device::{Buffer, Device, Error, Event, Graph, HostOptions, Staging, Stream};

use crate::common::devices;

const COUNT: usize = 64;

/// Objects that the capture tests use.
struct Things {
    device: Device,
    other: Stream,
    buffer: Buffer<f32>,
    staging: Staging<f32>,
    /// Two recorded events, and a graph that zeroes `buffer`.
    events: [Event; 2],
    graph: Graph,
}

impl Things {
    fn new(device: &Device) -> Self {
        let other = device.new_stream().unwrap();
        let mut buffer = device.upload(&[1.0f32; COUNT]).unwrap();
        let graph = other.capture(|stream| stream.zero(buffer.view_mut())).unwrap();
        let events = [(); 2].map(|()| other.record().unwrap());
        Self { device: device.clone(), other, buffer, staging: device.staging(COUNT).unwrap(), events, graph }
    }

    /// Results of all calls that wait for the device, and of all that only a running stream can do.
    fn refused(&mut self, stream: &Stream) -> Vec<(&'static str, Result<(), Error>)> {
        let Self { device, other, buffer, staging, events, graph } = self;
        vec![
            ("read a buffer", buffer.read().map(drop)),
            ("read a buffer", buffer.slice(3..5).read().map(drop)),
            ("write to a buffer", buffer.write(&[2.0; COUNT])),
            ("write to a buffer", buffer.slice_mut(0..1).write(&[2.0])),
            ("allocate a buffer", device.zeros::<f32>(4).map(drop)),
            ("allocate a buffer", device.upload(&[1.0f32]).map(drop)),
            ("allocate staging memory", device.staging::<f32>(4).map(drop)),
            ("read staging memory", staging.read().map(drop)),
            ("write to staging memory", staging.write().map(drop)),
            ("copy from or to the host", staging.upload(stream, 0..COUNT, buffer.view_mut())),
            ("copy from or to the host", staging.download(stream, 0..COUNT, buffer.view())),
            ("wait for a stream", stream.synchronize()),
            ("wait for a stream", other.synchronize()),
            ("wait for an event", events[0].synchronize()),
            ("wait for an event", events[1].elapsed_since(&events[0]).map(drop)),
            ("record an event", stream.record().map(drop)),
            ("let a stream wait for an event", stream.wait(&events[0])),
            ("begin another capture", stream.capture(|_| Ok::<_, Error>(())).map(drop)),
            // SAFETY: it is refused.
            ("launch a graph", unsafe { graph.launch(stream) }),
        ]
    }
}

#[test]
fn a_capture_refuses_what_would_wait_and_is_not_disturbed() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let mut things = Things::new(&device);
        let mut recorded = device.upload(&[3.0f32; COUNT]).unwrap();
        let graph = stream.capture(|stream| {
            stream.zero(recorded.slice_mut(0..1))?;
            for (doing, result) in things.refused(stream) {
                let message = result.expect_err(doing).to_string();
                let expected = format!(
                    "cannot {doing} while a stream is being captured; do it before or after the capture"
                );
                assert_eq!(message, expected);
            }
            stream.zero(recorded.slice_mut(2..3))
        });
        // None of the refused calls had an effect, and none of the recorded work ran.
        assert_eq!(things.buffer.read().unwrap(), [1.0; COUNT]);
        assert_eq!(recorded.read().unwrap(), [3.0; COUNT]);
        // SAFETY: the buffer is alive, and the read waits.
        unsafe { graph.unwrap().launch(&stream).unwrap() };
        assert_eq!(recorded.read().unwrap()[..4], [0.0, 3.0, 0.0, 3.0]);
        assert!(
            things
                .refused(&stream)
                .into_iter()
                .all(|(doing, result)| { result.map_err(|error| println!("{doing}: {error}")).is_ok() })
        );
    }
}

/// Other streams go on while one is captured, and objects dropped meanwhile are not lost.
#[test]
fn other_streams_go_on_beside_a_capture() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let Things { other, mut buffer, mut staging, events, graph, .. } = Things::new(&device);
        let mut copy = device.zeros::<f32>(COUNT).unwrap();
        staging.write().unwrap().fill(5.0);
        let mut recorded = device.upload(&[3.0f32; COUNT]).unwrap();
        let dropped = device.upload(&[4.0f32; COUNT]).unwrap();
        let replayed = stream.capture(|stream| {
            stream.zero(recorded.slice_mut(0..1))?;
            staging.upload(&other, 0..COUNT, buffer.view_mut())?;
            let third = device.new_stream()?;
            third.wait(&other.record()?)?;
            third.copy(copy.view_mut(), buffer.view())?;
            // All are in flight, or never used again.
            drop((third, dropped, staging, buffer, events, graph));
            stream.zero(recorded.slice_mut(2..3))
        });
        assert_eq!(copy.read().unwrap(), [5.0; COUNT]);
        assert_eq!(recorded.read().unwrap(), [3.0; COUNT]);
        // SAFETY: the buffer is alive, and the read waits.
        unsafe { replayed.unwrap().launch(&stream).unwrap() };
        assert_eq!(recorded.read().unwrap()[..4], [0.0, 3.0, 0.0, 3.0]);
    }
}

/// A capture by one thread does not restrict others.
#[test]
fn another_thread_reads_beside_a_capture() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let buffer = device.upload(&[1.0f32; COUNT]).unwrap();
        let graph = stream.capture(|_| {
            let read = || {
                let mut copy = device.zeros::<f32>(COUNT)?;
                copy.write(&buffer.read()?)?;
                copy.read()
            };
            let read = std::thread::scope(|scope| scope.spawn(read).join().unwrap());
            assert_eq!(read.unwrap(), [1.0; COUNT]);
            Ok::<_, Error>(())
        });
        assert_eq!(graph.unwrap().kernels(), [""; 0]);
    }
}

/// A capture whose work fails or panics still ends.
#[test]
fn a_capture_that_fails_leaves_the_device_usable() {
    for device in devices() {
        let stream = device.new_stream().unwrap();
        let mut buffer = device.upload(&[1.0f32; COUNT]).unwrap();
        let failed = stream.capture(|stream| {
            stream.zero(buffer.view_mut())?;
            device.zeros::<f32>(1).map(drop)
        });
        assert!(matches!(failed, Err(Error::Capturing("allocate a buffer"))), "{failed:?}");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stream.capture(|_| -> Result<(), Error> { panic!("on purpose") })
        }));
        assert!(panicked.is_err());
        stream.synchronize().unwrap();
        assert_eq!(buffer.read().unwrap(), [1.0; COUNT]);
    }
}

/// The device's own stream is shared by all: other users' work must not end up in a recording.
#[test]
fn the_own_stream_of_a_device_cannot_be_captured() {
    for device in devices() {
        let captured = device.stream().capture(|_| -> Result<(), Error> { panic!("it should not begin") });
        let message = captured.unwrap_err().to_string();
        assert_eq!(
            message,
            "stream is the device's own; it should be one of Device::new_stream, as all may give the own one work"
        );
        device.stream().synchronize().unwrap();
    }
}

#[test]
fn time_does_not_run_backwards() {
    for device in devices() {
        let stream = device.stream();
        let mut buffer = device.zeros::<f32>(1 << 16).unwrap();
        let earlier = stream.record().unwrap();
        for _ in 0..8 {
            stream.zero(buffer.view_mut()).unwrap();
        }
        // On the CPU emulator the clock must have moved on.
        std::thread::sleep(Duration::from_millis(1));
        stream.synchronize().unwrap();
        let later = stream.record().unwrap();
        assert!(later.elapsed_since(&earlier).unwrap() > Duration::ZERO);
        assert_eq!(later.elapsed_since(&later).unwrap(), Duration::ZERO);
        let message = earlier.elapsed_since(&later).unwrap_err().to_string();
        assert!(message.starts_with("earlier is ") && !message.contains("is -"), "{message}");
        assert!(message.ends_with(" ms after this event; it should be recorded before it"), "{message}");
    }
}

/// The message tells devices apart that look alike.
#[test]
fn the_message_about_another_device_tells_them_apart() {
    let [one, two] = [(); 2].map(|()| Device::host_with(HostOptions::default()).unwrap());
    let mut buffer = one.upload(&[1.0f32; COUNT]).unwrap();
    let source = two.upload(&[2.0f32; COUNT]).unwrap();
    let message = one.stream().copy(buffer.view_mut(), source.view()).unwrap_err().to_string();
    let (actual, expected) = message.split_once("; it should be ").unwrap();
    assert!(actual.starts_with("source is of device ") && expected.starts_with("of device "), "{message}");
    let number = |text: &str| text.split("device ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_ne!(number(actual), number(expected), "{message}");
    // A clone is the same device.
    one.clone().stream().copy(buffer.view_mut(), source.view()).unwrap_err();
    let clone = one.clone().upload(&[2.0f32; COUNT]).unwrap();
    one.stream().copy(buffer.view_mut(), clone.view()).unwrap();
}

/// A number of elements whose size in bytes overflows.
#[test]
fn a_length_beyond_all_memory_is_refused() {
    for device in devices() {
        for length in [usize::MAX, usize::MAX / 4 + 1, isize::MAX as usize / 4 + 1] {
            let buffer = device.zeros::<f32>(length).unwrap_err().to_string();
            assert!(buffer.starts_with("cannot allocate "), "{buffer}");
            let staging = device.staging::<f32>(length).unwrap_err().to_string();
            assert!(staging.contains("allocat"), "{staging}");
        }
    }
}
