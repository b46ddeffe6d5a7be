//! C programs against the static library: as C11 and as C++17, by themselves, under valgrind and under the sanitizers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 2] = ["api.c", "threads.c"];
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command; its output is the reason of a failure.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{error}: {command:?}; hint: bindings-c/setup.sh installs what the tests need")
    });
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
}

/// Compiles a program and links it with the static library that cargo built beside this test.
fn build(compiler: &str, standard: &str, program: &str, name: &str, flags: &[&str]) -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-{name}"));
    let language = if compiler == "g++" { "c++" } else { "c" };
    let mut command = Command::new(compiler);
    command.arg(standard).args(STRICT).args(["-g", "-O1"]).args(flags);
    command.arg("-I").arg(folder()).args(["-x", language]).arg(folder().join("tests").join(program));
    command.args(["-x", "none"]).arg(library()).args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&built);
    run(&mut command);
    built
}

fn library() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libp3sched_c.a")
}

#[test]
fn programs_run_as_c11_and_under_valgrind() {
    for program in PROGRAMS {
        let built = build("gcc", "-std=c11", program, "c11", &[]);
        run(&mut Command::new(&built));
        let checks =
            ["--quiet", "--error-exitcode=1", "--leak-check=full", "--show-leak-kinds=definite,indirect"];
        run(Command::new("valgrind").args(checks).arg(&built));
    }
}

#[test]
fn programs_run_as_cpp17() {
    for program in PROGRAMS {
        // `{0}` leaves out members on purpose.
        let built = build("g++", "-std=c++17", program, "cpp17", &["-Wno-missing-field-initializers"]);
        run(&mut Command::new(built));
    }
}

#[test]
fn programs_run_under_the_sanitizers() {
    for program in PROGRAMS {
        let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        run(&mut Command::new(build("gcc", "-std=c11", program, "sanitized", &flags)));
    }
}
