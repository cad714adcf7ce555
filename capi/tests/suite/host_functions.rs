//! Functions that work in host memory.

use std::ptr::{null, null_mut};

use retromae::ops::adamw::Hyperparameters;
use retromae::ops::attention::MaskBits;
use retromae::ops::masks::{self, MaskCountLimit};
use retromae_capi::*;

use crate::common::{OK, last_error};

#[track_caller]
fn assert_refused(result: rmae_status, status: u32, text: &str) {
    assert_eq!(result, status as rmae_status, "{}", last_error());
    assert!(last_error().starts_with(text) && last_error().contains("; it should be "), "{}", last_error());
}

#[test]
fn masks_of_bytes_become_bits() {
    let lengths = [3i64, 0, 33];
    let rust = lengths.map(|length| length as usize);
    let sees = |sequence: usize, query: usize, key: usize| !(sequence + 5 * query + key).is_multiple_of(3);
    let visible: Vec<u8> = (0..3)
        .flat_map(|sequence| {
            let length = rust[sequence];
            (0..length * length).map(move |i| 7 * u8::from(sees(sequence, i / length, i % length)))
        })
        .collect();
    let expected = MaskBits::from_fn(&rust, sees).unwrap();
    let (mut offsets, mut bits) = ([9u32; 4], vec![9u32; expected.words().len()]);
    // SAFETY: the arrays have the lengths that the header gives.
    unsafe {
        let call = |bits| rmae_mask_bits(lengths.as_ptr(), 3, visible.as_ptr(), offsets.as_mut_ptr(), bits);
        let mut call = call;
        assert_eq!(call(null_mut()), OK);
        assert_eq!(call(bits.as_mut_ptr()), OK);
    }
    assert_eq!((&offsets[..], &bits[..]), (expected.offsets(), expected.words()));
    let refuse = |lengths: &[i64], status, text: &str| {
        let mut offsets = vec![0; lengths.len() + 1];
        let count = lengths.len() as i64;
        // SAFETY: without bits nothing is visible.
        let result =
            unsafe { rmae_mask_bits(lengths.as_ptr(), count, null(), offsets.as_mut_ptr(), null_mut()) };
        assert_refused(result, status, text);
    };
    refuse(&[3, -1], RMAE_INVALID_ARGUMENT, "lengths is -1;");
    refuse(&[3, 65_537], RMAE_INVALID_ARGUMENT, "lengths is 65537 in sequence 1;");
    refuse(&[65_536; 32], RMAE_INVALID_ARGUMENT, "lengths is 4294967296 words");
    let mut room = [0u32; 4];
    // SAFETY: what is null is checked before it is read or written.
    unsafe {
        let result = rmae_mask_bits(null(), 3, null(), room.as_mut_ptr(), null_mut());
        assert_refused(result, RMAE_NULL_POINTER, "lengths is NULL;");
        let result = rmae_mask_bits(lengths.as_ptr(), 3, null(), null_mut(), null_mut());
        assert_refused(result, RMAE_NULL_POINTER, "offsets is NULL;");
        let result = rmae_mask_bits(lengths.as_ptr(), 3, null(), room.as_mut_ptr(), bits.as_mut_ptr());
        assert_refused(result, RMAE_NULL_POINTER, "visible is NULL;");
        let misaligned = lengths.as_ptr().wrapping_byte_add(4);
        let result = rmae_mask_bits(misaligned, 2, null(), room.as_mut_ptr(), null_mut());
        assert_refused(result, RMAE_MISALIGNED, "lengths is at 0x");
        let result = rmae_mask_bits(lengths.as_ptr(), -1, null(), room.as_mut_ptr(), null_mut());
        assert_refused(result, RMAE_INVALID_ARGUMENT, "sequences is -1;");
    }
}

#[test]
fn offsets_of_masks_are_those_of_rust() {
    let cu_seqlens = [0, 17, 17, 50];
    let limit = rmae_count_limit { ratio: 0.3, cap: 4 };
    let (mut pool, mut labeled) = ([9u32; 4], [9i32; 4]);
    // SAFETY: the arrays have these lengths; what is null is checked.
    unsafe {
        assert_eq!(rmae_masks_pool_offsets(cu_seqlens.as_ptr(), 3, 8, pool.as_mut_ptr()), OK);
        assert_eq!(rmae_masks_labeled_offsets(cu_seqlens.as_ptr(), 3, limit, labeled.as_mut_ptr()), OK);
        let result = rmae_masks_pool_offsets(cu_seqlens.as_ptr(), 3, 0, pool.as_mut_ptr());
        assert_refused(result, RMAE_INVALID_ARGUMENT, "rows_max is 0;");
        let result = rmae_masks_pool_offsets([0, 5, 4].as_ptr(), 2, 8, pool.as_mut_ptr());
        assert_refused(result, RMAE_INVALID_ARGUMENT, "cu_seqlens is 5 before 4;");
        let result = rmae_masks_labeled_offsets(null(), 3, limit, labeled.as_mut_ptr());
        assert_refused(result, RMAE_NULL_POINTER, "cu_seqlens is NULL;");
        let result = rmae_masks_labeled_offsets(cu_seqlens.as_ptr(), 3, limit, null_mut());
        assert_refused(result, RMAE_NULL_POINTER, "offsets is NULL;");
        let wrong = rmae_count_limit { ratio: f64::NAN, cap: 4 };
        let result = rmae_masks_labeled_offsets(cu_seqlens.as_ptr(), 3, wrong, labeled.as_mut_ptr());
        assert_refused(result, RMAE_INVALID_ARGUMENT, "count_limit is of ratio NaN;");
        let wrong = rmae_count_limit { ratio: 0.5, cap: -4 };
        let result = rmae_masks_labeled_offsets(cu_seqlens.as_ptr(), 3, wrong, labeled.as_mut_ptr());
        assert_refused(result, RMAE_INVALID_ARGUMENT, "count_limit is -4;");
    }
    assert_eq!(pool[..], masks::pool_offsets(&cu_seqlens, 8).unwrap());
    let limit = MaskCountLimit { ratio: 0.3, cap: Some(4) };
    assert_eq!(labeled[..], masks::labeled_offsets(&cu_seqlens, limit).unwrap());
}

#[test]
fn schedules_are_those_of_rust() {
    let constants =
        rmae_adamw_constants { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0 };
    let mut schedule = [9.0; 4];
    let mut call = |constants: rmae_adamw_constants, learning_rate, update| {
        // SAFETY: constants, and room for four elements.
        unsafe { rmae_adamw_schedule(&raw const constants, learning_rate, update, schedule.as_mut_ptr()) }
    };
    assert_refused(call(constants, 2.0, 1), RMAE_INVALID_ARGUMENT, "learning_rate is 2;");
    assert_refused(call(constants, 0.1, 0), RMAE_INVALID_ARGUMENT, "update is 0;");
    let wrong = rmae_adamw_constants { beta1: 1.0, ..constants };
    assert_refused(call(wrong, 0.1, 1), RMAE_INVALID_ARGUMENT, "constants.beta1 is 1;");
    let wrong = rmae_adamw_constants { max_norm: -1.0, ..constants };
    assert_refused(call(wrong, 0.1, 1), RMAE_INVALID_ARGUMENT, "constants.max_norm is -1;");
    assert_eq!(call(constants, 1e-3, 7), OK);
    assert_eq!(schedule, Hyperparameters::default().schedule(1e-3, 7).unwrap());
    // SAFETY: null is checked.
    unsafe {
        let result = rmae_adamw_schedule(null(), 0.1, 1, schedule.as_mut_ptr());
        assert_refused(result, RMAE_NULL_POINTER, "constants is NULL;");
        let result = rmae_adamw_schedule(&raw const constants, 0.1, 1, null_mut());
        assert_refused(result, RMAE_NULL_POINTER, "schedule is NULL;");
    }
}

#[test]
fn segments_are_at_most_rows_and_keys() {
    let mut segments = 0;
    // SAFETY: the address of the result; null is checked.
    unsafe {
        assert_eq!(rmae_group_by_key_segments(50, 7, &raw mut segments), OK);
        assert_eq!(segments, 7);
        assert_eq!(rmae_group_by_key_segments(5, 70, &raw mut segments), OK);
        assert_eq!(segments, 5);
        assert_refused(rmae_group_by_key_segments(5, 7, null_mut()), RMAE_NULL_POINTER, "segments is NULL;");
        let result = rmae_group_by_key_segments(-5, 7, &raw mut segments);
        assert_refused(result, RMAE_INVALID_ARGUMENT, "rows is -5;");
    }
}

#[test]
fn the_random_state_is_that_of_rust() {
    let mut words = [0; 4];
    // SAFETY: room for four words.
    unsafe { rmae_rng_state(0x1234_5678_9abc, 7, words.as_mut_ptr()) };
    assert_eq!(words, retromae::ops::rng_state(0x1234_5678_9abc, 7));
}
