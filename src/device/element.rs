//! Element types that cross the boundary to the kernels.

use bytemuck::Pod;
pub use half::{bf16, f16};

/// Run-time element type of floating-point operands; [`Float`] is its compile-time counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// bfloat16: the exponent of f32, and 8 significant bits.
    Bf16,
    /// IEEE 754 half precision: 11 significant bits; at most 65504.
    F16,
}

impl DType {
    /// Name as it appears in kernel names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Size of an element in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// A plain-data type that a [`Buffer`](super::Buffer) can hold.
pub trait Element: Pod + Send + Sync + std::fmt::Debug + 'static {}

impl Element for f32 {}
impl Element for bf16 {}
impl Element for f16 {}
impl Element for u8 {}
impl Element for u16 {}
impl Element for u32 {}
impl Element for i32 {}

/// A floating-point element type: f32, bf16 or f16. Attention, matmuls, the losses over the vocabulary and
/// LayerNorm are built for all three.
pub trait Float: Element + sealed::Sealed {
    /// The type as a run-time value.
    const DTYPE: DType;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Widens to f32, without rounding.
    fn to_f32(self) -> f32;
}

/// A type that every operation is built for, so a model can compute in it: f32 or bf16.
///
/// ```compile_fail,E0277
/// use retromae::device::f16;
/// use retromae::model::Model;
///
/// fn halves(model: Model<f16>) {}
/// ```
/// ```compile_fail,E0277
/// use retromae::device::f16;
/// use retromae::ops::rows::Gather;
///
/// fn halves(arguments: Gather<f16>) {}
/// ```
pub trait ModelFloat: Float {}

impl ModelFloat for f32 {}
impl ModelFloat for bf16 {}

/// Seals [`Float`] to the types whose size and meaning the kernels know.
mod sealed {
    pub trait Sealed {}

    impl Sealed for f32 {}
    impl Sealed for super::bf16 {}
    impl Sealed for super::f16 {}
}

impl Float for f32 {
    const DTYPE: DType = DType::F32;
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for bf16 {
    const DTYPE: DType = DType::Bf16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}

impl Float for f16 {
    const DTYPE: DType = DType::F16;
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }
}
