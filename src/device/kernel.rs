//! Kernel handles, and the launch configurations that the kernels' sources declare.

use std::fmt;
use std::marker::PhantomData;

use super::{DType, Error, Result, registry};

/// Maximum blocks of a grid in each direction, on every supported GPU.
const BLOCKS_MAX: [u64; 3] = [i32::MAX as u64, 65_535, 65_535];

/// Launch configuration: blocks in x, y and z, threads per block, and bytes of dynamic shared memory per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block, in bytes.
    pub shared_bytes: u32,
}

/// A kernel whose params struct is `P`. Its source declares its launch configuration.
pub struct Kernel<P> {
    name: &'static str,
    params: PhantomData<fn(&P)>,
}

impl<P> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Kernel<P> {}

impl<P> fmt::Debug for Kernel<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

impl<P> Kernel<P> {
    pub(super) const fn new(name: &'static str) -> Self {
        Self { name, params: PhantomData }
    }

    /// Name in the tables of both compilers.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Returns the launch configuration for `params`.
    ///
    /// # Errors
    /// When the grid exceeds a GPU's limits.
    pub fn shape(self, params: &P) -> Result<LaunchShape> {
        let declared = registry::declaration(self.name)?;
        let params = std::ptr::from_ref(params).cast();
        let mut blocks = [0u64; 3];
        // SAFETY: the build gives a handle the params type that its source has; grid and shared memory are computed from its numbers.
        let shared_bytes = unsafe {
            (declared.grid)(params, blocks.as_mut_ptr());
            (declared.shared_bytes)(params)
        };
        if blocks.iter().zip(BLOCKS_MAX).any(|(&blocks, most)| blocks > most) {
            return Err(Error::Launch {
                kernel: self.name.into(),
                argument: "grid",
                actual: format!("{blocks:?}"),
                expected: format!("at most {BLOCKS_MAX:?}"),
            });
        }
        Ok(LaunchShape {
            grid: blocks.map(|blocks| blocks as u32),
            threads: declared.threads,
            shared_bytes: u32::try_from(shared_bytes).unwrap_or(u32::MAX),
        })
    }
}

/// Kernels that differ only in the element type and, for some, the head size.
pub struct Family<P: 'static> {
    name: &'static str,
    /// Element type, head size and kernel name of each variant.
    variants: &'static [(DType, Option<usize>, &'static str)],
    params: PhantomData<fn(&P)>,
}

impl<P> Clone for Family<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Family<P> {}

impl<P> fmt::Debug for Family<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_*", self.name)
    }
}

impl<P> Family<P> {
    pub(super) const fn new(
        name: &'static str,
        variants: &'static [(DType, Option<usize>, &'static str)],
    ) -> Self {
        Self { name, variants, params: PhantomData }
    }

    /// Returns the `N` head sizes that are built for an element type.
    pub(crate) const fn head_dims<const N: usize>(self, dtype: DType) -> [usize; N] {
        let mut sizes = [0; N];
        let (mut variant, mut count) = (0, 0);
        while variant < self.variants.len() {
            if let (of, Some(head_dim), _) = self.variants[variant]
                && of as u8 == dtype as u8
            {
                sizes[count] = head_dim;
                count += 1;
            }
            variant += 1;
        }
        assert!(count == N);
        sizes
    }

    /// Returns the kernel of an element type and, where the family has them, a head size; `None` where there is none.
    #[must_use]
    pub fn find(self, dtype: DType, head_dim: Option<usize>) -> Option<Kernel<P>> {
        let found = self.variants.iter().find(|variant| (variant.0, variant.1) == (dtype, head_dim))?;
        Some(Kernel::new(found.2))
    }

    /// Returns the blocks in x of a launch with `params`, to size buffers by them before the element type is known: the number must not depend on
    /// it.
    #[must_use]
    pub fn blocks(self, params: &P) -> usize {
        let shape = Kernel::<P>::new(self.variants[0].2).shape(params);
        shape.map_or(0, |shape| shape.grid[0] as usize)
    }

    /// Returns the kernel of an element type.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(self, dtype: DType) -> Result<Kernel<P>> {
        let unknown = || Error::UnknownKernel(format!("{}_{}", self.name, dtype.name()));
        self.find(dtype, None).ok_or_else(unknown)
    }

    /// Returns the kernel of an element type and a head size.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_head(self, dtype: DType, head_dim: usize) -> Result<Kernel<P>> {
        let unknown = || Error::UnknownKernel(format!("{}_{}_d{head_dim}", self.name, dtype.name()));
        self.find(dtype, Some(head_dim)).ok_or_else(unknown)
    }
}

/// Handles of all kernels of this build, generated from the declarations in the kernels' sources.
#[allow(missing_docs)]
pub mod handles {
    use super::super::DType;
    use super::{Family, Kernel};

    mod params {
        #[cfg(feature = "baseline")]
        pub use super::super::super::baseline_params::*;
        pub use super::super::super::params::*;
    }

    include!(concat!(env!("OUT_DIR"), "/kernel_handles.rs"));
}
