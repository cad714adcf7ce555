//! A model's files.

use std::ffi::c_char;
use std::path::Path;

use retromae::model::io::{Error, Purpose, WEIGHTS_FILE};

use super::{AnyModel, model_of, with_model};
use crate::devices::text;
use crate::status::{Failure, Status};
use crate::{border, sys};

/// Returns the failure of a model's file.
fn file_failure(error: Error) -> Failure {
    match error {
        Error::Operation(error) => error.into(),
        error => Failure { status: Status::FileError, text: error.to_string() },
    }
}

/// Defines the functions that read or write a model's files.
macro_rules! files {
    ($($name:ident, $argument:ident, |$model:ident, $path:ident| $body:expr;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the header.")]
        ///
        /// # Safety
        /// The path is null or a C string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(model: sys::rmae_model, $argument: *const c_char) -> sys::rmae_status {
            border::call(|| {
                let shared = model_of(model)?;
                // SAFETY: passed on to the caller.
                let $path = Path::new(unsafe { text(stringify!($argument), $argument)? });
                with_model!(&mut shared.lock().model, $model => $body).map_err(file_failure)
            })
        }
    )*};
}

files! {
    rmae_model_save, directory, |model, path| model.save(path, None);
    rmae_model_load, directory, |model, path| {
        model.load_weights(&path.join(WEIGHTS_FILE), Purpose::Training).map(drop)
    };
    rmae_model_save_state, file, |model, path| model.save_state(path);
    rmae_model_load_state, file, |model, path| model.load_state(path);
}

as_declared! {
    rmae_model_save,
    rmae_model_load,
    rmae_model_save_state,
    rmae_model_load_state,
}
