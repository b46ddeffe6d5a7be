//! Figures that other programs of this repository measure: they print a JSON list of them.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Case, Outcome};
use crate::report::{Figure, Goal};

/// A program and what builds it.
struct Program {
    /// What the names of its figures begin with.
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    built_by: &'static str,
}

const PROGRAMS: [Program; 3] = [
    Program {
        name: "python",
        program: ".venv-python-bench/bin/python",
        arguments: &["bindings-python/benches/figures.py"],
        built_by: "make python-bench-setup",
    },
    Program {
        name: "envoy-module",
        program: "target/release/envoy-bench",
        arguments: &[],
        built_by: "make bench",
    },
    Program {
        name: "epp-server",
        program: "target/release/epp-bench",
        arguments: &[],
        built_by: "make bench",
    },
];

/// A figure as a program prints it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Printed {
    name: String,
    value: f64,
    unit: String,
    #[serde(default)]
    at_least: Option<f64>,
    #[serde(default)]
    at_most: Option<f64>,
    spread: f64,
    #[serde(default)]
    detail: String,
}

pub fn cases() -> Vec<Case> {
    let case =
        |program: Program| Case { name: program.name.to_owned(), run: Box::new(move |_: &_| program.run()) };
    PROGRAMS.into_iter().map(case).collect()
}

impl Program {
    fn run(&self) -> Result<Outcome> {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        if !root.join(self.program).exists() {
            return Ok(Outcome::Skipped(format!("`{}` builds what it needs", self.built_by)));
        }
        let output = Command::new(root.join(self.program))
            .args(self.arguments)
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start: `{}`", self.program))?;
        ensure!(output.status.success(), "`{}` ended with {}", self.program, output.status);
        let printed: Vec<Printed> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("not a list of figures: output of `{}`", self.program))?;
        Ok(Outcome::Measured(printed.into_iter().map(Figure::from).collect()))
    }
}

impl From<Printed> for Figure {
    fn from(printed: Printed) -> Self {
        let goal = match (printed.at_least, printed.at_most) {
            (Some(bound), _) => Goal::AtLeast(bound),
            (None, Some(bound)) => Goal::AtMost(bound),
            (None, None) => Goal::None,
        };
        let Printed { name, value, unit, spread, detail, .. } = printed;
        // A few bytes, once per run.
        Self { name, value, unit: unit.leak(), goal, spread, detail }
    }
}
