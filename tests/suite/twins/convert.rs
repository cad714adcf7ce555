//! Conversions between f32 and the 16-bit types.

use super::{Expected, assert_elementwise, floats};

/// The value of a bf16 with infinity continued as 2^128, so that overflow rounds like everything else.
fn bf16_value(bits: u16) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 7 & 0xff), f64::from(bits & 0x7f));
    let magnitude = match exponent {
        0 => mantissa * 2f64.powi(-133),
        _ => (128.0 + mantissa) * 2f64.powi(exponent - 134),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

#[test]
fn bf16_from_float_rounds_to_nearest_even() {
    assert_elementwise("twin_bf16_from_float", &floats(1, 1e4), |word| {
        let value = f32::from_bits(word);
        if value.is_nan() {
            // The instruction's only NaN.
            return Expected::Bits(0x7fff);
        }
        let below = (word >> 16) as u16;
        if value.is_infinite() {
            return Expected::Bits(u32::from(below));
        }
        let distance = |bits: u16| (f64::from(value) - bf16_value(bits)).abs();
        let (down, up) = (distance(below), distance(below + 1));
        let nearest = if up < down || up == down && below % 2 == 1 { below + 1 } else { below };
        Expected::Bits(u32::from(nearest))
    });
}

#[test]
fn bf16_to_float_is_exact_for_every_value() {
    let every: Vec<u32> = (0..=0xffff).collect();
    assert_elementwise("twin_bf16_to_float", &every, |word| {
        let bits = word as u16;
        let (exponent, mantissa) = (bits >> 7 & 0xff, bits & 0x7f);
        let value = match (exponent, mantissa) {
            (0xff, 0) => f32::INFINITY.copysign(bf16_value(bits) as f32),
            (0xff, _) => f32::NAN,
            _ => bf16_value(bits) as f32,
        };
        Expected::Float(value)
    });
}
