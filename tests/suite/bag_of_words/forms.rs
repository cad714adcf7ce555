//! Calls without some of the optional arguments: what is given has the results of the full call, bit for bit, and what is absent stays as it is.

use super::*;

const LOSSES: Form = Form {
    bias: false,
    bag_weights: false,
    sentence_weights: false,
    d_hidden: false,
    d_weight: false,
    d_bias: false,
};

/// Calls `check` in every type and algorithm on every device.
macro_rules! in_every_type {
    ($check:ident) => {
        for device in devices() {
            $check::<f32>(&device, Algorithm::Library);
            for algorithm in BOTH {
                $check::<bf16>(&device, algorithm);
                $check::<f16>(&device, algorithm);
            }
        }
    };
}

/// Inputs whose results do not depend on whether bias and weights are given.
fn without_vectors<T: Float>(lengths: &[usize], vocabulary: usize) -> Inputs<T> {
    let mut operands = Inputs::random(lengths, vocabulary, 64);
    operands.bias.fill(0.0);
    operands.sentence_weights.fill(1.0);
    operands.bags.iter_mut().flatten().for_each(|(_, weight)| *weight = 1.0);
    operands
}

#[test]
fn any_argument_may_be_absent() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let plain = without_vectors::<T>(&[5, 9, 20], 97);
        let weighted = Inputs::<T>::random(&[5, 9, 20], 97, 64);
        let gradients = (0..8).map(|subset| {
            let [d_hidden, d_weight, d_bias] = [0, 1, 2].map(|bit| subset >> bit & 1 == 1);
            (&weighted, Form { d_hidden, d_weight, d_bias, ..FULL })
        });
        let inputs = [
            Form { bias: false, ..FULL },
            Form { bag_weights: false, ..FULL },
            Form { sentence_weights: false, ..FULL },
            Form { d_hidden: true, d_weight: true, ..LOSSES },
            LOSSES,
        ];
        for (operands, form) in gradients.chain(inputs.map(|form| (&plain, form))) {
            let full = run_form(device, &[operands], (algorithm, 16), FULL, false);
            let actual = run_form(device, &[operands], (algorithm, 16), form, false);
            let what = format!("{form:?} by {algorithm:?}");
            assert_eq!(actual.losses, full.losses, "{what}");
            let untouched = actual.d_hidden.iter().all(|value| value.is_nan());
            assert!(if form.d_hidden { actual.d_hidden == full.d_hidden } else { untouched }, "{what}");
            for (given, actual, full) in
                [(form.d_weight, actual.d_weight, full.d_weight), (form.d_bias, actual.d_bias, full.d_bias)]
            {
                assert!(
                    if given { actual == full } else { actual.iter().all(|&value| value == 0.0) },
                    "{what}"
                );
            }
        }
    }
    in_every_type!(check);
}

#[test]
fn losses_alone_match_the_reference() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        for (lengths, vocabulary) in [(&[1][..], 7), (&[63, 1, 5], 1003), (&[130, 20], 97)] {
            let operands = without_vectors::<T>(lengths, vocabulary);
            let actual = run_form(device, &[&operands], (algorithm, 32), LOSSES, false);
            let (exact, naive) = (exact(&operands), naive(&operands).0);
            assert_close::<f32>("losses", &actual.losses, &naive.losses, &exact.losses);
        }
    }
    in_every_type!(check);
}

#[test]
fn forward_launches_nothing_of_gradients() {
    fn check<T: Float>(device: &Device, algorithm: Algorithm) {
        let operands = Inputs::<T>::random(&[5, 9], 97, 64);
        let form = Form { d_hidden: false, d_weight: false, d_bias: false, ..FULL };
        let kernels = run_form(device, &[&operands], (algorithm, 16), form, true).kernels;
        let first = match algorithm {
            Algorithm::Library => "bag_of_words_maximum",
            Algorithm::Fused => "bag_of_words_matmul",
        };
        assert!(kernels.len() == 2 && kernels[0].starts_with(first), "{kernels:?}");
        assert_eq!(kernels[1], "bag_of_words_loss");
    }
    in_every_type!(check);
}
