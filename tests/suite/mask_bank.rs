//! Banks of masks: bit for bit those of the reference.

use crate::common::{devices, integers, prefix_sums};
use retromae::device::{Buffer, Device, Error as DeviceError};
use retromae::model::VisibilityBank;
use retromae::ops::{self, mask_bank, rng_state};
use retromae::reference::mask::{self, CONTINUATION, MaskedSentence, SPECIAL, WORD_START, ratio_q32};

/// `[CLS]`, words of random length, `[SEP]`; one token alone is `[CLS]`.
fn sentence(seed: u64, length: usize) -> Vec<u8> {
    let kinds = integers(seed, length, 3);
    let kind = |(token, &kind): (usize, &i32)| match token {
        0 => SPECIAL,
        last if last == length - 1 => SPECIAL,
        _ if kind == 0 => CONTINUATION,
        _ => WORD_START,
    };
    kinds.iter().enumerate().map(kind).collect()
}

struct Pack {
    seed: u64,
    step: u32,
    sentences: Vec<Vec<u8>>,
    indices: Vec<u32>,
    ratio: f32,
    bank_rows_max: usize,
}

impl Pack {
    fn new(sentences: Vec<Vec<u8>>) -> Self {
        let indices = (0..sentences.len() as u32).map(|b| b.wrapping_mul(0x9E37_79B9)).collect();
        Self { seed: 0x0123_4567_89ab_cdef, step: 17, sentences, indices, ratio: 0.5, bank_rows_max: 128 }
    }

    fn cu_seqlens(&self) -> Vec<i32> {
        prefix_sums(&self.sentences.iter().map(Vec::len).collect::<Vec<_>>())
    }

    fn expected(&self) -> VisibilityBank {
        let sentence = |(words, &index)| MaskedSentence { index, word_starts: words };
        let sentences: Vec<_> =
            self.sentences.iter().map(Vec::as_slice).zip(&self.indices).map(sentence).collect();
        mask::mask_bank(self.seed, self.step, &sentences, ratio_q32(self.ratio), self.bank_rows_max)
    }

    fn run(&self, device: &Device) -> ops::Result<VisibilityBank> {
        let cu_seqlens = self.cu_seqlens();
        let offsets = mask_bank::offsets(&cu_seqlens, self.bank_rows_max)?;
        let word_starts = self.sentences.concat();
        let length_max = self.sentences.iter().map(Vec::len).max().unwrap_or(1);
        let needed = mask_bank::workspace(word_starts.len(), length_max, self.bank_rows_max);
        let rng = device.upload(&rng_state(self.seed, self.step))?;
        let (cu_seqlens, indices) = (device.upload(&cu_seqlens)?, device.upload(&self.indices)?);
        let (tokens, bank_offsets) = (device.upload(&word_starts)?, device.upload(&offsets)?);
        let mut bits: Buffer<u32> = device.zeros(offsets[offsets.len() - 1] as usize)?;
        let mut rows: Buffer<u16> = device.zeros(word_starts.len())?;
        let mut workspace: Buffer<u16> = device.zeros(needed)?;
        let arguments = mask_bank::Arguments {
            rng: rng.view(),
            cu_seqlens: cu_seqlens.view(),
            sentence_indices: indices.view(),
            word_starts: tokens.view(),
            bank_offsets: bank_offsets.view(),
            bits: bits.view_mut(),
            rows: rows.view_mut(),
            workspace: workspace.view_mut(),
            length_max,
            bank_rows_max: self.bank_rows_max,
            ratio_q32: ratio_q32(self.ratio),
        };
        mask_bank::generate(&device.stream(), arguments)?;
        Ok(VisibilityBank { bits: bits.read()?, offsets, rows: rows.read()? })
    }

    #[track_caller]
    fn check(&self, device: &Device) {
        let (actual, expected) = (self.run(device).unwrap(), self.expected());
        assert_eq!(actual.offsets, expected.offsets);
        assert_eq!(actual.rows, expected.rows);
        let wrong = (0..expected.bits.len()).find(|&word| actual.bits[word] != expected.bits[word]);
        assert_eq!(wrong, None, "the first word that differs, of {}", expected.bits.len());
    }
}

#[test]
fn equals_the_reference_for_every_length() {
    let lengths = [1, 2, 3, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 200, 511, 512];
    let pack = Pack::new(lengths.iter().map(|&length| sentence(length as u64, length)).collect());
    for device in devices() {
        pack.check(&device);
    }
}

#[test]
fn equals_the_reference_for_every_bank_size_and_ratio() {
    let sentences: Vec<_> = [5, 70, 40].iter().map(|&length| sentence(length as u64, length)).collect();
    for device in devices() {
        for bank_rows_max in [1, 31, 32, 33, 64, 100, 300] {
            for ratio in [0.0, 0.15, 0.7, 1.0] {
                Pack { ratio, bank_rows_max, ..Pack::new(sentences.clone()) }.check(&device);
            }
        }
    }
}

#[test]
fn odd_sentences_are_masked_alike() {
    let one_word = |continuations| [vec![SPECIAL, WORD_START], vec![CONTINUATION; continuations]].concat();
    let sentences = vec![
        vec![SPECIAL; 40],
        [one_word(60), vec![WORD_START, SPECIAL]].concat(),
        // A last word ends with its sentence, whatever the next one begins with.
        vec![SPECIAL, SPECIAL, SPECIAL, WORD_START, CONTINUATION],
        vec![CONTINUATION; 35],
        one_word(60),
        vec![SPECIAL, CONTINUATION, CONTINUATION, WORD_START, SPECIAL, CONTINUATION, WORD_START],
        vec![WORD_START; 66],
        vec![WORD_START],
    ];
    for device in devices() {
        Pack::new(sentences.clone()).check(&device);
        Pack { ratio: 0.1, ..Pack::new(sentences.clone()) }.check(&device);
    }
}

/// Beyond 1024 tokens the permutations live in the workspace.
#[test]
fn long_sentences_use_the_workspace() {
    let sentences = vec![sentence(1, 1025), sentence(2, 60), sentence(3, 2000), sentence(4, 1024)];
    assert_eq!(mask_bank::workspace(4000, 1024, 128), 0);
    assert_eq!(mask_bank::workspace(10, 1025, 33), 10 * 64);
    for device in devices() {
        Pack::new(sentences.clone()).check(&device);
        Pack { bank_rows_max: 40, ..Pack::new(sentences.clone()) }.check(&device);
    }
    Pack::new(vec![sentence(5, 1024)]).check(&devices()[0]);
    Pack::new(vec![sentence(6, 3), sentence(7, 8192)]).check(&devices()[0]);
}

#[test]
fn draws_follow_seed_step_and_sentence_and_not_the_place() {
    let device = &devices()[0];
    let sentences = vec![sentence(1, 64), sentence(1, 64)];
    let base = Pack { indices: vec![3, 4], ..Pack::new(sentences.clone()) };
    let swapped = Pack { indices: vec![4, 3], ..Pack::new(sentences.clone()) };
    let (first, second) = (base.run(device).unwrap(), swapped.run(device).unwrap());
    assert_eq!((&first.bits[..128], &first.rows[..64]), (&second.bits[128..], &second.rows[64..]));
    for other in [
        Pack { step: 18, ..Pack::new(sentences.clone()) },
        Pack { seed: 0x0123_4567_89ab_cdee, ..Pack::new(sentences.clone()) },
        Pack { seed: 0x1123_4567_89ab_cdef, ..Pack::new(sentences) },
    ] {
        let other = Pack { indices: vec![3, 4], ..other };
        assert_ne!(other.run(device).unwrap(), first);
    }
}

#[test]
fn the_workspace_never_shrinks() {
    let needs: Vec<usize> =
        (1..200).map(|i| mask_bank::workspace(i * 100, (i * 100).min(8192), 128)).collect();
    assert!(needs.is_sorted());
}

#[test]
fn wrong_arguments_are_refused() {
    let refuse = |pack: Pack| pack.run(&devices()[0]).unwrap_err().to_string();
    let pack = || Pack::new(vec![sentence(1, 10)]);
    assert_eq!(refuse(Pack { bank_rows_max: 0, ..pack() }), "bank_rows_max is 0; it should be in 1..=65536");
    assert_eq!(
        refuse(Pack { indices: vec![1, 2], ..pack() }),
        "cu_seqlens is 2 elements long; it should be 3 (sentences + 1)"
    );
    assert_eq!(
        refuse(Pack::new(vec![vec![WORD_START; 8193]])),
        "length_max is 8193; it should be in 1..=8192"
    );
    let message = mask_bank::offsets(&[0, 5, 4], 8).unwrap_err().to_string();
    assert_eq!(message, "cu_seqlens is 5 before 4; it should be never falling");
    let message = mask_bank::offsets(&[0, i32::MAX], 65536).unwrap_err().to_string();
    assert!(message.starts_with("bits is 4398046511104 words; it should be below 2^32 words"), "{message}");
}

/// Offsets that disagree with the pack leave the bits; the guard pages of the host device catch it.
#[test]
fn a_wrong_offset_is_caught_on_the_host_device() {
    let device = &devices()[0];
    if device.name() != "host" {
        println!("ignored: a test of the host device");
        return;
    }
    let (rng, cu_seqlens) = (device.upload(&rng_state(1, 1)).unwrap(), device.upload(&[0i32, 64]).unwrap());
    let (indices, tokens) = (device.upload(&[0u32]).unwrap(), device.upload(&sentence(1, 64)).unwrap());
    let bank_offsets = device.upload(&[128u32, 256]).unwrap();
    let mut bits: Buffer<u32> = device.zeros(128).unwrap();
    let mut rows: Buffer<u16> = device.zeros(64).unwrap();
    let mut workspace: Buffer<u16> = device.zeros(0).unwrap();
    let arguments = mask_bank::Arguments {
        rng: rng.view(),
        cu_seqlens: cu_seqlens.view(),
        sentence_indices: indices.view(),
        word_starts: tokens.view(),
        bank_offsets: bank_offsets.view(),
        bits: bits.view_mut(),
        rows: rows.view_mut(),
        workspace: workspace.view_mut(),
        length_max: 64,
        bank_rows_max: 64,
        ratio_q32: ratio_q32(0.5),
    };
    let error = mask_bank::generate(&device.stream(), arguments).unwrap_err();
    let ops::Error::Device(DeviceError::Kernel { kernel, .. }) = &error else { panic!("{error}") };
    assert_eq!(kernel, "mask_bank");
}
