//! Wasmtime's C API as a static library: every symbol is the package's own.

pub use wasmtime_c_api::*;
