//! Names the shared library inside itself, so that programs ask for the version that they were linked with.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") == "linux" {
        // Before 1.0 the minor version stands for what is binary compatible.
        let soname = format!(
            "libp3sched.so.{}.{}",
            variable("CARGO_PKG_VERSION_MAJOR"),
            variable("CARGO_PKG_VERSION_MINOR")
        );
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    }
}
