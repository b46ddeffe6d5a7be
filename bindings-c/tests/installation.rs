//! What `make install` leaves is all that a program needs: `pkg-config` finds it, and the README's program runs with it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{error}: {command:?}; hint: bindings-c/setup.sh installs what the tests need")
    });
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Installs the libraries that cargo built beside this test, as a package would be made.
fn install() -> PathBuf {
    let destination = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installation");
    fs::remove_dir_all(&destination).ok();
    let built = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut make = Command::new("make");
    make.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(["install", "PREFIX=/usr"]);
    make.arg(format!("DESTDIR={}", destination.display())).arg(format!("BUILT={}", built.display()));
    run(&mut make);
    destination
}

fn quickstart() -> String {
    let readme = include_str!("../README.md");
    let (_, code) = readme.split_once("```c\n").unwrap();
    code.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_program_of_the_readme_needs_pkg_config_only() {
    let installed = install();
    let pkg_config = |arguments: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.args(arguments).arg("p3sched");
        command.env("PKG_CONFIG_LIBDIR", installed.join("usr/lib/pkgconfig"));
        run(command.env("PKG_CONFIG_SYSROOT_DIR", &installed).env("PKG_CONFIG_ALLOW_SYSTEM_LIBS", "1"))
    };
    assert_eq!(pkg_config(&["--modversion"]).trim(), env!("CARGO_PKG_VERSION"));
    let flags = pkg_config(&["--cflags", "--libs"]);
    let source = installed.join("quickstart.c");
    fs::write(&source, quickstart()).unwrap();
    assert!(quickstart().lines().count() <= 30);

    let program = installed.join("quickstart");
    let strict = ["-std=c11", "-Wall", "-Wextra", "-Werror"];
    run(Command::new("gcc").args(strict).arg(&source).args(flags.split_whitespace()).arg("-o").arg(&program));
    let said = run(Command::new(&program).env("LD_LIBRARY_PATH", installed.join("usr/lib")));
    assert!(said.starts_with("forward it to 10.0.0."), "{said}");

    let needed = run(Command::new("readelf").arg("-d").arg(&program));
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"));
    assert!(needed.contains(&format!("[libp3sched.so.{major}.{minor}]")), "{needed}");

    let library = installed.join("usr/lib/libp3sched.a");
    let include = format!("-I{}", installed.join("usr/include").display());
    let program = installed.join("quickstart-static");
    let mut compiler = Command::new("gcc");
    compiler.args(strict).arg(include).arg(&source).arg(library).args(["-lpthread", "-ldl", "-lm", "-o"]);
    run(compiler.arg(&program));
    assert_eq!(run(&mut Command::new(&program)), said);
}

/// What else a shared library exports collides with the names of others.
#[test]
fn the_shared_library_exports_what_the_header_declares() {
    let library = std::env::current_exe().unwrap().with_file_name("libp3sched_c.so");
    let listed = run(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(library));
    let mut exported: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    exported.sort_unstable();
    let header = include_str!("../p3sched.h");
    let declarations = header.lines().filter(|line| !line.starts_with(' ') && !line.starts_with("//"));
    let mut declared: Vec<&str> = declarations
        .filter_map(|line| line.split_once('('))
        .filter_map(|(before, _)| before.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("p3sched_"))
        .collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    assert!(declared.len() > 40);
}
