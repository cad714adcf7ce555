//! The C interface of `include/retromae.h`: each function checks what Rust's types would have, and calls the function of the same name in
//! [`retromae::ops`].
//!
//! A caller's memory becomes views (`Call`), a caller's stream is lent for the length of the call, and nothing is allocated on the device.

/// Refuses to compile functions of another type than the header declares.
macro_rules! as_declared {
    ($($name:ident),* $(,)?) => {
        const _: () = {
            $(let _ = [crate::sys::$name, $name];)*
        };
    };
}

mod border;
mod call;
mod devices;
mod handles;
mod model;
mod operations;
mod ranges;
mod status;
#[allow(clippy::undocumented_unsafe_blocks)]
mod sys;
mod types;

#[doc(hidden)]
pub use sys::*;
