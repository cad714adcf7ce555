//! The model through the C interface: against the f64 reference, beside the Rust interface, and with an optimizer of the caller.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};

use retromae::device::{Device, View, ViewMut};
use retromae::model::io::parse_config;
use retromae::model::{
    AdamW, Batch, Capacity, Input, MaskPool, Masking, MicroBatch, Model, PackedSentences, StepRandomness,
    TrainStep,
};
use retromae::ops::{adamw, reduce};
use retromae::reference;
use retromae_capi::*;

/// Largest relative difference of a gradient from the reference in the Euclidean norm: f32 rounding through three layers.
const TOLERANCE: f64 = 1e-4;

const CONFIG: &CStr = c"{\"vocab_size\": 32, \"hidden_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"intermediate_size\": 128, \"max_position_embeddings\": 16}";
const CAPACITY: rmae_capacity = rmae_capacity { tokens: 16, sentences: 2, sentence_length: 16 };
const CONSTANTS: rmae_adamw_constants =
    rmae_adamw_constants { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0 };

/// Name of the device under test.
fn device_name() -> &'static CStr {
    if Device::for_tests().unwrap().name() == "cuda" { c"cuda:0" } else { c"host" }
}

fn last_error() -> String {
    // SAFETY: the text is the library's.
    unsafe { CStr::from_ptr(rmae_last_error()) }.to_string_lossy().into_owned()
}

fn check(status: rmae_status) {
    assert_eq!(status, RMAE_OK as rmae_status, "{}", last_error());
}

/// Asserts a refusal; returns its text.
fn refused(status: rmae_status, expected: u32) -> String {
    let text = last_error();
    assert_eq!(status, expected as rmae_status, "{text}");
    text
}

fn open_model(dtype: u32) -> (rmae_device, rmae_model) {
    let (mut device, mut model) = (null_mut(), null_mut());
    // SAFETY: the names are C strings, the results valid.
    unsafe {
        check(rmae_device_open(device_name().as_ptr(), 0, &raw mut device));
        check(rmae_model_create(device, CONFIG.as_ptr(), dtype as i32, CAPACITY, &raw mut model));
        check(rmae_model_initialize(model, 42));
    }
    (device, model)
}

type Parameter = (CString, rmae_parameter_info);

/// Names and infos of all parameters.
fn parameters(model: rmae_model) -> Vec<Parameter> {
    let mut count = 0;
    // SAFETY: the results are valid; the names live as long as the model.
    unsafe {
        check(rmae_model_parameter_count(model, &raw mut count));
        let info = |index| {
            let mut info = std::mem::zeroed();
            check(rmae_model_parameter_info(model, index, &raw mut info));
            (CStr::from_ptr(info.name).to_owned(), info)
        };
        (0..count).map(info).collect()
    }
}

type Read = unsafe extern "C" fn(rmae_model, *const c_char, *mut f32, i64) -> rmae_status;

fn read(function: Read, model: rmae_model, (name, info): &Parameter) -> Vec<f32> {
    let mut values = vec![f32::NAN; info.length as usize];
    // SAFETY: the array has this length.
    check(unsafe { function(model, name.as_ptr(), values.as_mut_ptr(), info.length) });
    values
}

/// Two sentences of 6 and 4 tokens.
fn explicit() -> Batch {
    let ids = vec![1, 10, 11, 12, 13, 2, 1, 20, 21, 2];
    let label = |keep: &[usize]| {
        ids.iter().enumerate().map(|(i, &id)| if keep.contains(&i) { id } else { -100 }).collect::<Vec<i32>>()
    };
    Batch {
        cu_seqlens: vec![0, 6, 10],
        encoder_input_ids: vec![1, 10, 3, 12, 13, 2, 1, 20, 3, 2],
        encoder_labels: label(&[2, 8]),
        decoder_labels: label(&[1, 2, 3, 4, 5, 7, 8, 9]),
        decoder_input_ids: ids,
        visibility: Some(MaskPool {
            bits: vec![0b01_1011, 0b10_0101, 0b0111, 0b1001, 0b1110],
            offsets: vec![0, 2, 5],
            rows: vec![0, 1, 0, 1, 0, 1, 0, 1, 2, 0],
        }),
    }
}

/// A descriptor of two sentences without arrays.
fn empty_batch(cu_seqlens: &[i32]) -> rmae_batch {
    rmae_batch {
        size: size_of::<rmae_batch>() as u32,
        version: RMAE_BATCH_VERSION,
        sentences: 2,
        cu_seqlens: cu_seqlens.as_ptr(),
        // SAFETY: zero is a value of every field.
        ..unsafe { std::mem::zeroed() }
    }
}

fn as_c(batch: &Batch) -> rmae_batch {
    let visibility = batch.visibility.as_ref().unwrap();
    rmae_batch {
        encoder_input_ids: batch.encoder_input_ids.as_ptr(),
        encoder_labels: batch.encoder_labels.as_ptr(),
        decoder_input_ids: batch.decoder_input_ids.as_ptr(),
        decoder_labels: batch.decoder_labels.as_ptr(),
        visibility_bits: visibility.bits.as_ptr(),
        visibility_words: visibility.bits.len() as i64,
        visibility_offsets: visibility.offsets.as_ptr(),
        visibility_rows: visibility.rows.as_ptr(),
        ..empty_batch(&batch.cu_seqlens)
    }
}

/// Runs a step without randomness.
fn step(model: rmae_model, batch: &rmae_batch) -> rmae_outcome {
    // SAFETY: zero is a value of every field; the batch lives.
    unsafe {
        let mut outcome: rmae_outcome = std::mem::zeroed();
        check(rmae_model_step(model, null_mut(), batch, null(), 0, &raw mut outcome));
        outcome
    }
}

fn arena_of(model: rmae_model) -> rmae_arena {
    // SAFETY: zero is a value of every field; the result is valid.
    unsafe {
        let mut arena: rmae_arena = std::mem::zeroed();
        check(rmae_model_parameters_arena(model, &raw mut arena));
        arena
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[test]
fn a_step_agrees_with_the_reference() {
    let (device, model) = open_model(RMAE_F32);
    let names = parameters(model);
    // Ten times the initial matrices, so that attention is not nearly uniform.
    let mut values = reference::Parameters::new();
    for parameter in &names {
        let (name, info) = parameter;
        let factor = if info.columns > 1 { 10.0 } else { 1.0 };
        let scaled = read(rmae_model_parameter, model, parameter).into_iter().map(|value| value * factor);
        let scaled: Vec<f32> = scaled.collect();
        // SAFETY: the array has this length.
        check(unsafe { rmae_model_set_parameter(model, name.as_ptr(), scaled.as_ptr(), info.length) });
        values.insert(name.to_str().unwrap().into(), scaled.into_iter().map(f64::from).collect());
    }
    let batch = explicit();
    let config = parse_config(CONFIG.to_str().unwrap(), None).unwrap();
    let expected = reference::step(&config, &values, &batch, None);
    let outcome = step(model, &as_c(&batch));
    for (actual, expected) in
        [(outcome.encoder_loss, expected.encoder_loss), (outcome.decoder_loss, expected.decoder_loss)]
    {
        assert!((f64::from(actual) / expected - 1.0).abs() < TOLERANCE, "{actual} {expected}");
    }
    let (arena, memory) = (arena_of(model), Device::for_tests().unwrap());
    for parameter in &names {
        let (name, info) = (parameter.0.to_str().unwrap(), &parameter.1);
        let gradient = read(rmae_model_gradient, model, parameter);
        // A softmax is invariant to a shift of all scores, so the key bias's gradient is rounding alone: it is measured against the query bias's.
        let scale =
            norm(expected.gradients[&name.replace("self.key.bias", "self.query.bias")].iter().copied());
        let difference = gradient.iter().zip(&expected.gradients[name]).map(|(&a, b)| f64::from(a) - b);
        assert!(norm(difference) <= TOLERANCE * scale, "{name}");
        // The same gradient lies at the parameter's place in the arena.
        let address = arena.gradients.addr() as u64 + 4 * info.offset as u64;
        // SAFETY: the model's memory.
        let view = unsafe { View::<f32>::borrow_raw(&memory, address, info.length as usize) };
        assert_eq!(view.unwrap().read().unwrap(), gradient, "{name}");
    }
    // SAFETY: handles may be of any value.
    unsafe {
        check(rmae_model_destroy(model));
        check(rmae_device_close(device));
    }
}

/// Two batches accumulated and one optimizer step, by AdamW as an operation on the arena, are what the model's own update does.
#[test]
fn an_optimizer_of_the_callers_works_in_the_arena() {
    for dtype in [RMAE_F32, RMAE_BF16] {
        let batch = explicit();
        let batch = as_c(&batch);
        let [own, other] = [(); 2].map(|()| open_model(dtype).1);
        for update in 1..=2u32 {
            for (model, part) in [(own, 0), (own, 1), (other, 0), (other, 1)] {
                let number = 2 * update + part;
                // SAFETY: the batch lives.
                check(unsafe { rmae_model_accumulate(model, null_mut(), &raw const batch, 7, number, 0.5) });
            }
            let mut norm = 0.0;
            let constants = CONSTANTS;
            // SAFETY: constants and result are valid.
            check(unsafe {
                rmae_model_update(own, null_mut(), &raw const constants, 1e-2, update, &raw mut norm)
            });
            assert!(norm > 0.0);
            update_in_arena(other, update, dtype);
        }
        for parameter in &parameters(own) {
            let [expected, actual] = [own, other].map(|model| read(rmae_model_parameter, model, parameter));
            assert_eq!(expected, actual, "{:?}", parameter.0);
        }
        // The copy that the kernels read was renewed, too.
        let losses = [own, other].map(|model| step(model, &batch)).map(|losses| losses.decoder_loss);
        assert_eq!(losses[0], losses[1]);
    }
}

fn update_in_arena(model: rmae_model, update: u32, dtype: u32) {
    let device = Device::for_tests().unwrap();
    let stream = device.stream();
    let optimizer = AdamW::default();
    let arena = arena_of(model);
    assert_eq!(arena.compute_parameters.is_null(), dtype == RMAE_F32);
    let length = arena.length as usize;
    let mut squared_norm = device.zeros::<f32>(1).unwrap();
    let mut workspace = reduce::workspace(length).allocate(&device).unwrap();
    let schedule = device.upload(&optimizer.schedule(1e-2, update).unwrap()).unwrap();
    // SAFETY: the model's memory, which nobody else uses meanwhile.
    unsafe {
        let exclusive = |data: *mut f32| ViewMut::borrow_raw(&device, data.addr() as u64, length).unwrap();
        let squares = reduce::Arguments {
            input: View::borrow_raw(&device, arena.gradients.addr() as u64, length).unwrap(),
            output: squared_norm.view_mut(),
            accumulate: false,
            workspace: workspace.view_mut(),
        };
        reduce::squares(&stream, squares).unwrap();
        let compute = arena.compute_parameters;
        let compute = (!compute.is_null())
            .then(|| ViewMut::borrow_raw(&device, compute.addr() as u64, length).unwrap());
        let step = adamw::Step {
            parameters: exclusive(arena.parameters),
            gradients: exclusive(arena.gradients),
            first_moments: exclusive(arena.first_moments),
            second_moments: exclusive(arena.second_moments),
            compute_parameters: compute,
            squared_norm: squared_norm.view(),
            schedule: schedule.view(),
            decayed: arena.decayed as usize,
            hyperparameters: optimizer,
        };
        adamw::step(&stream, step).unwrap();
        stream.synchronize().unwrap();
        check(rmae_model_zero_gradients(model, null_mut()));
    }
}

#[test]
fn a_training_step_is_the_rust_interfaces() {
    let (_, model) = open_model(RMAE_F32);
    let (cu_seqlens, indices, starts) = ([0, 6, 10], [0u32, 1], [u32::MAX]);
    let ids = [1, 10, 11, 12, 13, 2, 1, 20, 21, 2];
    let batch = rmae_batch {
        ids: ids.as_ptr(),
        sentence_indices: indices.as_ptr(),
        word_starts: starts.as_ptr(),
        mask_id: 3,
        encoder_limit: rmae_count_limit { ratio: 0.3, cap: 0 },
        decoder_limit: rmae_count_limit { ratio: 0.5, cap: 0 },
        pool_rows: 128,
        ..empty_batch(&cu_seqlens)
    };
    let constants = rmae_adamw_constants { max_norm: 0.0, ..CONSTANTS };

    let device = Device::for_tests().unwrap();
    let config = parse_config(CONFIG.to_str().unwrap(), None).unwrap();
    let capacity = Capacity { tokens: 16, sentences: 2, sentence_length: 16 };
    let mut expected = Model::<f32>::new(&device, &config, capacity).unwrap();
    expected.initialize(42).unwrap();
    let sentences = PackedSentences {
        sentence_indices: indices.to_vec(),
        cu_seqlens: cu_seqlens.to_vec(),
        ids: ids.to_vec(),
        word_starts: starts.to_vec(),
    };
    let optimizer = AdamW { max_norm: None, ..AdamW::default() };
    for update in 1..=4 {
        // SAFETY: zero is a value of every field; everything lives.
        let actual = unsafe {
            let mut outcome: rmae_outcome = std::mem::zeroed();
            let (batch, constants) = (&raw const batch, &raw const constants);
            check(rmae_model_train_step(model, null_mut(), batch, 9, update, constants, 1e-3, update));
            check(rmae_model_outcome(model, &raw mut outcome));
            outcome
        };
        let input = Input::Sampled(&sentences, Masking::new(3));
        let step = TrainStep {
            batch: MicroBatch::new(input, StepRandomness { seed: 9, step: update }),
            optimizer: &optimizer,
            learning_rate: 1e-3,
            update,
        };
        let handle = expected.train_step(&device.stream(), &step).unwrap();
        let result = expected.result(handle).unwrap();
        let losses = result.losses;
        assert_eq!((actual.encoder_loss, actual.decoder_loss), (losses.encoder, losses.decoder));
        assert_eq!(actual.gradient_norm, result.gradient_norm);
        assert!(actual.bag_of_words_loss.is_nan() && losses.bag_of_words.is_none());
    }
    let mut vectors = [0.0f32; 2 * 64];
    let (prefix_sums, vector) = (cu_seqlens.as_ptr(), vectors.as_mut_ptr());
    // SAFETY: the arrays have these lengths.
    check(unsafe { rmae_model_embed(model, null_mut(), 2, prefix_sums, ids.as_ptr(), 0, vector) });
    assert_eq!(expected.embed(&device.stream(), &cu_seqlens, &ids).unwrap(), vectors);
}

#[test]
fn a_model_is_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    let [(_, saved), (_, loaded)] = [(); 2].map(|()| open_model(RMAE_F32));
    // SAFETY: the paths are C strings.
    unsafe {
        check(rmae_model_initialize(saved, 1));
        check(rmae_model_save(saved, path("").as_ptr()));
        check(rmae_model_load(loaded, path("").as_ptr()));
        check(rmae_model_save_state(saved, path("state").as_ptr()));
    }
    let both =
        |parameter: &Parameter| [saved, loaded].map(|model| read(rmae_model_parameter, model, parameter));
    for parameter in &parameters(saved) {
        let [first, second] = both(parameter);
        let is_random = parameter.1.columns > 1;
        let is_decoders = parameter.0.to_bytes().starts_with(b"decoder.");
        assert_eq!(first == second, !(is_decoders && is_random), "{:?}", parameter.0);
    }
    // SAFETY: as above.
    check(unsafe { rmae_model_load_state(loaded, path("state").as_ptr()) });
    for parameter in &parameters(saved) {
        let [first, second] = both(parameter);
        assert_eq!(first, second);
    }
    // SAFETY: as above.
    let status = unsafe { rmae_model_load(loaded, path("nowhere").as_ptr()) };
    assert!(refused(status, RMAE_FILE_ERROR).contains("nowhere"));
}

#[test]
fn wrong_batches_are_refused() {
    let (_, model) = open_model(RMAE_F32);
    let batch = explicit();
    let right = as_c(&batch);
    let falling = [0, 6, 5];
    for (wrong, status, text) in [
        (rmae_batch { size: 8, ..right }, RMAE_INVALID_DESCRIPTOR, "rmae_batch.size is 8 bytes"),
        (rmae_batch { version: 2, ..right }, RMAE_INVALID_DESCRIPTOR, "rmae_batch.version is 2"),
        (rmae_batch { flags: 1, ..right }, RMAE_INVALID_ARGUMENT, "rmae_batch.flags is 0x1"),
        (rmae_batch { encoder_labels: null(), ..right }, RMAE_NULL_POINTER, "encoder_labels is NULL"),
        (rmae_batch { sentences: -1, ..right }, RMAE_INVALID_ARGUMENT, "sentences is -1"),
        (
            rmae_batch { cu_seqlens: falling.as_ptr(), ..right },
            RMAE_INVALID_ARGUMENT,
            "cu_seqlens is from 0 to 5",
        ),
    ] {
        // SAFETY: what is wrong is refused before it is used.
        let (status, expected) = unsafe {
            let mut outcome: rmae_outcome = std::mem::zeroed();
            let result = rmae_model_step(model, null_mut(), &raw const wrong, null(), 0, &raw mut outcome);
            (refused(result, status), text)
        };
        assert!(status.starts_with(expected), "{status}");
    }
    // SAFETY: as above.
    let status = unsafe { rmae_model_step(model, null_mut(), &raw const right, null(), 0, null_mut()) };
    assert!(refused(status, RMAE_NULL_POINTER).starts_with("outcome is NULL"));
}

#[test]
fn wrong_calls_are_refused() {
    let (device, model) = open_model(RMAE_F32);
    let (mut other, mut value) = (null_mut(), 0.0);
    let mut create = |config: &CStr, dtype: u32, capacity| {
        // SAFETY: the text is a C string, the result valid.
        unsafe { rmae_model_create(device, config.as_ptr(), dtype as i32, capacity, &raw mut other) }
    };
    refused(create(CONFIG, RMAE_F16, CAPACITY), RMAE_UNSUPPORTED_SHAPE);
    refused(create(CONFIG, 9, CAPACITY), RMAE_INVALID_ARGUMENT);
    let text = refused(create(c"{", RMAE_F32, CAPACITY), RMAE_INVALID_ARGUMENT);
    assert!(text.starts_with("config: "), "{text}");
    refused(create(CONFIG, RMAE_F32, rmae_capacity { tokens: -5, ..CAPACITY }), RMAE_INVALID_ARGUMENT);
    // SAFETY: handles may be of any value; results and texts are valid.
    unsafe {
        let mut outcome: rmae_outcome = std::mem::zeroed();
        let text = refused(rmae_model_outcome(model, &raw mut outcome), RMAE_INVALID_ARGUMENT);
        assert!(text.starts_with("model is without a step"), "{text}");
        let status = rmae_model_parameter(model, c"bert".as_ptr(), &raw mut value, 1);
        assert!(refused(status, RMAE_INVALID_ARGUMENT).contains("\"bert\""));
        check(rmae_model_destroy(model));
        let text = refused(rmae_model_destroy(model), RMAE_INVALID_HANDLE);
        assert!(text.contains("which is not open"), "{text}");
        check(rmae_device_close(device));
        let status = rmae_model_create(device, CONFIG.as_ptr(), 1, CAPACITY, &raw mut other);
        refused(status, RMAE_INVALID_HANDLE);
    }
}
