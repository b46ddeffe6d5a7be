//! The filter in C of `examples/envoy-filter-c` picks inside a real Envoy.

use crate::module_stack::ModuleStack;
use crate::stack::{chat_body, folder, text};
use futures_util::StreamExt;
use p3sched_examples::envoy::EnvoyVersion;
use p3sched_examples::process::repository_root;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const MODULE: &str = "p3sched_filter";

/// Builds the filter once, with the library that cargo built for the tests of this workspace.
fn module_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let library = std::env::current_exe().unwrap().with_file_name("libp3sched_c.a");
        assert!(library.is_file(), "missing: `{}`; hint: cargo build -p p3sched-c", library.display());
        let out = folder("c-filter");
        let made = Command::new("make")
            .arg("--always-make")
            .arg("-C")
            .arg(repository_root().join("examples/envoy-filter-c"))
            .arg(format!("OUT={}", out.display()))
            .arg(format!("P3SCHED_LIBRARY={}", library.display()))
            .arg(format!("P3SCHED_INCLUDE={}", repository_root().join("bindings-c").display()))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        out
    })
}

/// Starts an Envoy with the filter; `config` is what follows the endpoints.
async fn start(test: &str, version: EnvoyVersion, config: &str) -> anyhow::Result<ModuleStack> {
    let endpoints = |addresses: &[std::net::SocketAddr]| {
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        names.join(",") + config
    };
    let module = module_folder();
    ModuleStack::start(test, MODULE, endpoints, |options| {
        options.version = version;
        options.module.folder = module.to_owned();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_finds_its_replica_in_every_version() {
    for version in [EnvoyVersion::V1_38, EnvoyVersion::V1_39, EnvoyVersion::V1_40] {
        let stack = start("c-filter-versions", version, r#" {"preset": "default"}"#).await.unwrap();
        let mut engines = BTreeSet::new();
        for group in 0..3 {
            let mut homes = BTreeSet::new();
            for turn in 0..4 {
                let answer = stack.chat(&(text(&format!("group {group}"), 300) + &turn.to_string())).await;
                assert_eq!(answer.status, 200, "{version:?}: {}", answer.body);
                homes.insert(answer.engine().to_owned());
            }
            assert_eq!(homes.len(), 1, "{version:?}: {homes:?}");
            engines.extend(homes);
        }
        assert_eq!(engines.len(), 3, "{version:?}: three cold prefixes go to three idle replicas");
        assert_eq!(stack.get("/v1/models").await.status, 200, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_pass_and_what_is_none_is_refused() {
    let stack = start("c-filter-bodies", EnvoyVersion::V1_40, "").await.unwrap();
    for megabytes in [1, 10] {
        let body = chat_body(&text("long", megabytes * 250_000), false).to_string();
        let answer = stack.post("/simulator/echo/v1/chat/completions", body.clone()).await;
        assert_eq!((answer.status, answer.header("x-body-bytes")), (200, &*body.len().to_string()));
    }
    let refused = stack.post("/v1/chat/completions", "{").await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.starts_with("invalid request: "), "{}", refused.body);
    assert_eq!(stack.chat("and Envoy lives").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_pass_event_by_event() {
    let stack = start("c-filter-streams", EnvoyVersion::V1_40, "").await.unwrap();
    let body = chat_body("Count.", true).to_string();
    let response = stack.request("/v1/chat/completions").body(body).send().await.unwrap();
    let chunks: Vec<_> = response.bytes_stream().map(|chunk| chunk.unwrap()).collect().await;
    let whole = chunks.concat();
    assert!(chunks.len() > 1 && whole.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_work_is_refused() {
    let refused = start("c-filter-refused", EnvoyVersion::V1_40, r#" {"presett": "default"}"#).await;
    assert!(refused.is_err());
    let log = std::fs::read_to_string(folder("c-filter-refused").join("envoy.log")).unwrap();
    assert!(log.contains("unknown field `presett`"), "{log}");
}
