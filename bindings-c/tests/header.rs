//! The committed header is what the crate says now.

#![expect(unsafe_code, clippy::unwrap_used, reason = "a test reads C strings and fails by panicking")]

use std::path::Path;

/// Generates the header and compares it with `p3sched.h`; with `P3SCHED_WRITE_HEADER` set it writes it.
#[test]
fn header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(folder).with_config(config).generate().unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();
    let committed = folder.join("p3sched.h");
    if std::env::var_os("P3SCHED_WRITE_HEADER").is_some() {
        std::fs::write(&committed, &generated).unwrap();
    }
    let hint = "the header is not what the crate says; hint: P3SCHED_WRITE_HEADER=1 cargo test -p p3sched-c --test header";
    assert!(std::fs::read_to_string(&committed).unwrap_or_default() == generated, "{hint}");
}

#[test]
fn header_has_the_version_of_the_package() {
    let header = include_str!("../p3sched.h");
    let version = env!("CARGO_PKG_VERSION");
    assert!(header.contains(&format!("#define P3SCHED_VERSION \"{version}\"\n")));
    for (name, number) in ["MAJOR", "MINOR", "PATCH"].iter().zip(version.split('.')) {
        assert!(header.contains(&format!("#define P3SCHED_VERSION_{name} {number}\n")), "{name}");
    }
}

/// Whoever adds an error to the core has to give it a number here, or C programs see no more than `Other`.
#[test]
fn every_error_of_the_core_has_a_status_of_the_same_name() {
    let source = include_str!("../../core/src/error.rs");
    let codes = source.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
    let codes: Vec<&str> = codes.collect();
    assert!(codes.len() >= 9 && codes.contains(&"NoEndpoints"), "{codes:?}");
    let names: Vec<String> = (0..200).map(status_name).collect();
    for code in codes {
        assert!(names.iter().any(|name| name == code), "{code} has no status");
    }
    assert_eq!((status_name(-1).as_str(), status_name(1000).as_str()), ("Unknown", "Unknown"));
}

fn status_name(status: i32) -> String {
    let name = p3sched_c::p3sched_status_name(status);
    // SAFETY: the function returns a text that is always valid.
    unsafe { std::ffi::CStr::from_ptr(name) }.to_str().unwrap().to_owned()
}
