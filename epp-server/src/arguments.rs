//! The spellings of a command line that the reference picker accepts, brought into the one that this program reads.
//!
//! | written | read as |
//! |---|---|
//! | an empty argument | nothing |
//! | `--cert-path ""`, `--cert-path=` | nothing: the flag counts as not given |
//! | `-grpc-port=9002`, `-grpc-port 9002` | `--grpc-port=9002` |
//! | `--poolName llama` | `--pool-name=llama` |
//! | `-v 4`, `-vv` | `--v=4`, `--v=5` |

use std::collections::HashMap;
use std::ffi::OsString;

use clap::{Arg, Command};

/// Rewrites arguments, the first of which is the program's name, for a command.
pub(crate) fn normalize(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let wants_value: HashMap<&str, bool> = command.get_arguments().flat_map(names).collect();
    let mut arguments = arguments.into_iter().peekable();
    let mut normal: Vec<OsString> = arguments.next().into_iter().collect();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            normal.push(argument);
            normal.extend(arguments);
            break;
        }
        let Some((name, value)) = argument.to_str().and_then(flag) else {
            if !argument.is_empty() {
                normal.push(argument);
            }
            continue;
        };
        let value = match (value, wants_value.get(&*name)) {
            (Some(value), _) => Some(value.into()),
            (None, Some(true)) => arguments.next(),
            (None, _) if name == "v" => arguments.next_if(is_number),
            (None, _) => None,
        };
        match value {
            Some(value) if value.is_empty() => {}
            Some(value) => {
                let mut joined = OsString::from(format!("--{name}="));
                joined.push(value);
                normal.push(joined);
            }
            None => normal.push(format!("--{name}").into()),
        }
    }
    normal
}

/// Every name of a flag, with whether its value is the next argument.
fn names(flag: &Arg) -> impl Iterator<Item = (&str, bool)> {
    let wants_value = flag.get_action().takes_values() && !flag.is_require_equals_set();
    let aliases = flag.get_all_aliases().unwrap_or_default();
    flag.get_long().into_iter().chain(aliases).map(move |name| (name, wants_value))
}

/// Name and value of a flag; `None` for what is no flag or has one letter that is not `v`.
fn flag(argument: &str) -> Option<(String, Option<&str>)> {
    let (name, value) = match argument.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (argument, None),
    };
    let long = name.strip_prefix("--");
    let name = long.or_else(|| name.strip_prefix('-'))?;
    if long.is_none() && name.chars().all(|letter| letter == 'v') && value.is_none() {
        return match name.len() {
            0 => None,
            1 => Some((name.to_owned(), None)),
            2 => Some(("v".to_owned(), Some("5"))),
            _ => Some(("v".to_owned(), Some("6"))),
        };
    }
    let is_short = long.is_none() && name.len() == 1 && name != "v";
    (!is_short).then(|| (kebab_case(name), value))
}

/// `poolName` as `pool-name`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

fn is_number(argument: &OsString) -> bool {
    argument.to_str().is_some_and(|text| text.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::flags::CommandLine;

    fn normal(arguments: &[&str]) -> Vec<String> {
        let arguments = ["epp"].iter().chain(arguments).map(OsString::from);
        let normal = normalize(&CommandLine::command(), arguments);
        normal.into_iter().skip(1).map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn spellings_come_to_one() {
        for (written, read) in [
            (&["", "--grpc-port", "9002", ""][..], &["--grpc-port=9002"][..]),
            (&["-grpc-port", "9002"], &["--grpc-port=9002"]),
            (&["-grpcPort=9002"], &["--grpc-port=9002"]),
            (&["--poolName", "llama"], &["--pool-name=llama"]),
            (
                &["--modelServerMetricsHttpsInsecureSkipVerify"],
                &["--model-server-metrics-https-insecure-skip-verify"],
            ),
            (&["--cert-path", "", "--secure-serving=false"], &["--secure-serving=false"]),
            (&["--cert-path=", "-v"], &["--v"]),
            (&["--config-text", "---\na: 1"], &["--config-text=---\na: 1"]),
            (&["--config-text", "-v"], &["--config-text=-v"]),
            (&["-configText", "a: b=c"], &["--config-text=a: b=c"]),
            (&["--configText=a: b=c"], &["--config-text=a: b=c"]),
            (&["--zap-encoder", "json"], &["--zap-encoder=json"]),
            (&["-v", "4", "-vv", "--v=3", "-v=2"], &["--v=4", "--v=5", "--v=3", "--v=2"]),
            (&["-v", "--tracing"], &["--v", "--tracing"]),
            (&["--secure-serving", "--cert-path", "/tls"], &["--secure-serving", "--cert-path=/tls"]),
            (&["-unknownFlag=1", "-h"], &["--unknown-flag=1", "-h"]),
            (&["check-config", "a.yaml"], &["check-config", "a.yaml"]),
            (&["--", "", "-grpcPort"], &["--", "", "-grpcPort"]),
        ] {
            assert_eq!(normal(written), read, "{written:?}");
        }
    }
}
