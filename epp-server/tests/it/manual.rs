//! The operator's manual, `README.md`, says what the server does: its tables are those that are generated here.
//!
//! `UPDATE_MANUAL=1 cargo test -p epp-server --test it manual` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use clap::CommandFactory;
use epp_server::flags::CommandLine;
use p3sched::SchedulerConfig;
use serde_json::Value;

use crate::monitoring::page_after_requests;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

fn manual() -> String {
    let _alone = WRITING.lock().unwrap();
    read()
}

fn read() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// Several tables are in one file, which other tests read.
static WRITING: Mutex<()> = Mutex::new(());

/// Compares what stands between the two marks of a table with what should.
fn check(name: &str, table: &str) {
    let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->"));
    let _alone = WRITING.lock().unwrap();
    let manual = read();
    let (head, rest) = manual.split_once(&begin).unwrap();
    let (written, tail) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE_MANUAL").is_some() {
        std::fs::write(path(), format!("{head}{begin}{table}{end}{tail}")).unwrap();
    } else {
        assert!(written == table, "README.md is out of date; run this test with UPDATE_MANUAL=1: {name}");
    }
}

/// Text that stays in one cell.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;")
}

fn flag_tables() -> String {
    let command = CommandLine::command();
    let mut headings: Vec<&str> = Vec::new();
    let mut rows: BTreeMap<&str, String> = BTreeMap::new();
    for flag in command.get_arguments() {
        let (Some(heading), Some(name)) = (flag.get_help_heading(), flag.get_long()) else { continue };
        if !headings.contains(&heading) {
            headings.push(heading);
        }
        let value = flag.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
        let defaults: Vec<_> =
            flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let values: Vec<_> = (flag.get_possible_values().iter())
            .map(|value| (value.get_name().to_owned(), value.get_help().map(ToString::to_string)))
            .collect();
        let mut help = cell(&flag.get_help().unwrap_or_default().to_string());
        for (at, (name, meaning)) in values.iter().enumerate() {
            let gap = if at == 0 { ": " } else { ", " };
            let meaning = meaning.as_ref().map(|meaning| format!(" ({})", cell(meaning))).unwrap_or_default();
            write!(help, "{gap}`{name}`{meaning}").unwrap();
        }
        let rows = rows.entry(heading).or_default();
        writeln!(rows, "| `--{name}` | {value} | {default} | {help} |").unwrap();
    }
    let table = |heading: &&str| {
        format!(
            "\n**{heading}**\n\n| flag | value | default | meaning |\n|---|---|---|---|\n{}",
            rows[heading]
        )
    };
    headings.iter().map(table).collect::<String>() + "\n"
}

/// Families of a metrics page with type, labels and meaning, as table rows.
fn metric_table(page: &str) -> String {
    let mut families: BTreeMap<&str, (&str, &str, BTreeSet<&str>)> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name).or_default().0 = kind;
        } else if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name).or_default().1 = help;
        }
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, labels)) = line.split_once('{') else { continue };
        let owner = families.keys().rfind(|name| series.starts_with(**name)).copied();
        let Some((_, _, known)) = owner.and_then(|name| families.get_mut(name)) else { continue };
        let labels = labels.split('}').next().unwrap().split("\",");
        known.extend(labels.filter_map(|label| label.split('=').next()).filter(|label| *label != "le"));
    }
    let mut table = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, (kind, help, labels)) in families {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let help = help.trim_end_matches('.');
        writeln!(table, "| `{name}{suffix}` | {kind} | {} | {} |", labels.join(" "), cell(help)).unwrap();
    }
    table + "\n"
}

/// Every key of a configuration, nested ones too.
fn keys<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.insert(key);
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn the_flags_are_those_of_help() {
    check("flags", &flag_tables());
}

#[tokio::test]
async fn the_metrics_are_those_that_are_served() {
    check("metrics", &metric_table(&page_after_requests().await));
}

#[test]
fn every_key_of_the_configuration_is_explained() {
    let config = serde_json::to_value(SchedulerConfig::default()).unwrap();
    let mut expected = BTreeSet::new();
    keys(&config, &mut expected);
    let manual = manual();
    let missing: Vec<_> = expected.iter().filter(|key| !manual.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in README.md: {missing:?}");
}

#[test]
fn links_lead_to_files() {
    let folder = path().parent().unwrap().to_owned();
    let manual = manual();
    let links = manual.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let mut checked = 0;
    for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
        assert!(folder.join(link).exists(), "{link}");
        checked += 1;
    }
    assert!(checked > 5, "{checked}");
}
