//! Puts the C API's headers beside the library: target/release/include.

use std::{env, fs, os::unix::fs::symlink, path::Path};

fn main() {
    let headers = env::var("DEP_WASMTIME_C_API_INCLUDE").expect("wasmtime-c-api-impl says where its headers are");
    let out = env::var("OUT_DIR").unwrap(); // target/release/build/wasmtime-c-…/out
    let include = Path::new(&out).ancestors().nth(3).unwrap().join("include");
    let _ = fs::remove_file(&include);
    symlink(headers, include).unwrap();
    println!("cargo:rerun-if-changed=build.rs");
}
