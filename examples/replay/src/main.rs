//! `replay`: what would have happened under another policy.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Replays traffic against routing policies on simulated engines, in simulated time.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<command::run::Arguments>),
    Goals(command::goals::Arguments),
    WhatIf(Box<command::what_if::Arguments>),
    Tune(Box<command::tune::Arguments>),
    Sweeps(command::sweeps::Arguments),
    /// Compare the simulated engine with the real ones of a demo
    Validate(command::validate::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => command::run::run(&arguments),
        Command::Goals(arguments) => command::goals::run(&arguments),
        Command::WhatIf(arguments) => command::what_if::run(&arguments),
        Command::Tune(arguments) => command::tune::run(&arguments),
        Command::Sweeps(arguments) => command::sweeps::run(&arguments),
        Command::Validate(arguments) => command::validate::run(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
