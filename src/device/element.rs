//! Element types that cross the boundary to the kernels.

use bytemuck::Pod;
pub use half::{bf16, f16};

/// The type of floating-point operands, at run time. Kernels are built for f32 and bf16; attention, products and the heads also take f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    F32,
    Bf16,
    F16,
}

impl DType {
    /// As it appears in kernel names.
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

/// A plain value that may live in a [`Buffer`](super::Buffer).
pub trait Element: Pod + Send + Sync + std::fmt::Debug + 'static {}

impl Element for f32 {}
impl Element for bf16 {}
impl Element for f16 {}
impl Element for u8 {}
impl Element for u16 {}
impl Element for u32 {}
impl Element for i32 {}

/// A floating-point element type: f32 and bf16, which kernels compute with, and f16, which only attention, products and the heads take.
pub trait Float: Element {
    const DTYPE: DType;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
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
