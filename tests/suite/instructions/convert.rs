//! Conversions between f32 and the 16-bit types.

use super::{Expected, assert_elementwise, assert_records, floats};

/// A 16-bit type: a sign, an exponent, and this many bits of mantissa.
#[derive(Clone, Copy)]
struct Format {
    mantissa_bits: u16,
    exponent_bias: i32,
}

const BF16: Format = Format { mantissa_bits: 7, exponent_bias: 127 };
const F16: Format = Format { mantissa_bits: 10, exponent_bias: 15 };

const SIGN: u16 = 0x8000;
/// The only NaN that the instructions return.
const NAN: u16 = 0x7fff;

impl Format {
    fn infinity(self) -> u16 {
        SIGN - (1 << self.mantissa_bits)
    }

    /// Returns the magnitude of `bits`. Infinity continues as one more power of two, so that overflow rounds like everything else.
    fn magnitude(self, bits: u16) -> f64 {
        let unit = f64::from(1 << self.mantissa_bits);
        let exponent = i32::from((bits & !SIGN) >> self.mantissa_bits);
        let mantissa = f64::from(bits & ((1 << self.mantissa_bits) - 1));
        let significand = if exponent == 0 { mantissa } else { unit + mantissa };
        significand / unit * 2f64.powi(exponent.max(1) - self.exponent_bias)
    }

    fn value(self, bits: u16) -> f32 {
        let magnitude = match bits & !SIGN {
            bits if bits < self.infinity() => self.magnitude(bits) as f32,
            bits if bits == self.infinity() => f32::INFINITY,
            _ => f32::NAN,
        };
        if bits & SIGN == 0 { magnitude } else { -magnitude }
    }

    /// Rounds to nearest, ties to even.
    fn rounded(self, value: f32) -> u16 {
        if value.is_nan() {
            return NAN;
        }
        let magnitude = f64::from(value.abs());
        // Search for the first magnitude that is not below the value.
        let (mut low, mut high) = (0, self.infinity());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.magnitude(middle) < magnitude {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let above = low;
        let below = above.saturating_sub(1);
        let (up, down) = (self.magnitude(above) - magnitude, magnitude - self.magnitude(below));
        let nearest = if up < down || up == down && above % 2 == 0 { above } else { below };
        nearest | if value.is_sign_negative() { SIGN } else { 0 }
    }

    /// Returns floats halfway between any two neighbors, their neighbors on both sides, and more.
    fn hard(self, seed: u64) -> Vec<u32> {
        let halfway = |bits| ((self.magnitude(bits) + self.magnitude(bits + 1)) / 2.0) as f32;
        let around = |bits| [halfway(bits).next_down(), halfway(bits), halfway(bits).next_up()];
        let positive = (0..self.infinity()).flat_map(around).map(f32::to_bits);
        let mut all: Vec<u32> = positive.flat_map(|word| [word, word | 1 << 31]).collect();
        all.extend(floats(seed, 1e4));
        all
    }
}

fn assert_rounds(kernel: &str, format: Format) {
    assert_elementwise(kernel, &format.hard(1), |word| {
        Expected::Bits(u32::from(format.rounded(f32::from_bits(word))))
    });
}

fn assert_widens(kernel: &str, format: Format) {
    let every: Vec<u32> = (0..=0xffff).collect();
    assert_elementwise(kernel, &every, |word| Expected::Float(format.value(word as u16)));
}

fn assert_rounds_pairs(kernel: &str, format: Format) {
    let low = format.hard(17);
    let high = floats(18, 1e4);
    let pairs: Vec<[u32; 2]> =
        low.into_iter().zip(high.into_iter().cycle()).map(|(low, high)| [low, high]).collect();
    assert_records(kernel, &pairs, |pair| {
        let [low, high] = pair.map(|word| u32::from(format.rounded(f32::from_bits(word))));
        [Expected::Bits(low | high << 16)]
    });
}

#[test]
fn bf16_from_float_rounds_to_nearest_even() {
    assert_rounds("instruction_bf16_from_float", BF16);
}

#[test]
fn f16_from_float_rounds_to_nearest_even() {
    assert_rounds("instruction_f16_from_float", F16);
}

#[test]
fn bf16_to_float_is_exact_for_every_value() {
    assert_widens("instruction_bf16_to_float", BF16);
}

#[test]
fn f16_to_float_is_exact_for_every_value() {
    assert_widens("instruction_f16_to_float", F16);
}

#[test]
fn pairs_of_bf16_are_rounded_each() {
    assert_rounds_pairs("instruction_bf16_pair", BF16);
}

#[test]
fn pairs_of_f16_are_rounded_each() {
    assert_rounds_pairs("instruction_f16_pair", F16);
}
