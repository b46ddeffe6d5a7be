//! Prefill and decode on different replicas: the decode replica gets the request, and is told who does the prefill.

use crate::stack::{Stack, WAYS, chat_body, folder, read, text};
use p3sched_examples::envoy::{EnvoyConfig, PickSource};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;

const ROLES: [&str; 3] = ["decode", "prefill", "prefill"];

const CONFIGURATION: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 64}}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}
- type: disagg-headers-handler
- type: decode-filter
- type: prefill-filter
- type: prefix-cache-scorer
- type: queue-scorer
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: prefix-cache-scorer}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: prefix-cache-scorer}, {pluginRef: queue-scorer}]}
";

async fn start(test: &str, config: EnvoyConfig, source: PickSource) -> (Stack, Vec<SocketAddr>) {
    let mut replicas = Vec::new();
    let stack = Stack::start_with(test, config, |envoy, picker| {
        envoy.pick_source = source;
        replicas = std::mem::take(&mut picker.endpoints);
        let file = endpoints_file(test, &replicas);
        picker.arguments = ["--endpoints-file", file.to_str().unwrap(), "--config-text", CONFIGURATION]
            .map(str::to_owned)
            .to_vec();
    })
    .await;
    (stack, replicas)
}

fn endpoints_file(test: &str, replicas: &[SocketAddr]) -> PathBuf {
    let entries = replicas.iter().zip(ROLES);
    let lines: String = entries
        .map(|(name, role)| format!("- {{name: '{name}', labels: {{llm-d.ai/role: {role}}}}}\n"))
        .collect();
    let file = folder(test).join("endpoints.yaml");
    std::fs::write(&file, format!("endpoints:\n{lines}")).unwrap();
    file
}

/// The replica that answered, and what it read under both names of the header, which a client tries to write.
async fn ask(stack: &Stack, prompt: &str) -> (String, Vec<String>) {
    let request = stack.request("/simulator/echo/v1/chat/completions");
    let forged = request.header("x-prefiller-host-port", "10.9.9.9:1");
    let answer = read(forged.body(chat_body(prompt, false).to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let seen: Value = serde_json::from_str(&answer.body).unwrap();
    let headers = seen.get("headers").unwrap().as_array().unwrap().iter();
    let named = headers.filter(|header| header[0].as_str().unwrap().ends_with("prefiller-host-port"));
    let values = named.map(|header| header[1].as_str().unwrap().to_owned()).collect();
    (answer.engine().to_owned(), values)
}

#[tokio::test(flavor = "multi_thread")]
async fn long_prompts_have_their_prefill_elsewhere() {
    for (config, source) in WAYS {
        let (stack, replicas) = start("disaggregation", config, source).await;
        let way = format!("{config:?} by {source:?}");
        let mut prefillers = Vec::new();
        for conversation in 0..4 {
            let prompt = text(&format!("conversation {conversation}"), 300);
            let (engine, named) = ask(&stack, &prompt).await;
            assert_eq!((engine.as_str(), named.len()), ("engine-1", 2), "{way}: {named:?}");
            assert_eq!(named[0], named[1], "{way}");
            prefillers.extend(named.into_iter().take(1));
            assert_eq!(
                ask(&stack, &prompt).await,
                ("engine-1".to_owned(), vec![]),
                "{way}: it is cached now"
            );
        }
        assert_eq!(ask(&stack, "What is rain?").await, ("engine-1".to_owned(), vec![]), "{way}: it is short");
        prefillers.sort();
        prefillers.dedup();
        let mut expected = vec![replicas[1].to_string(), replicas[2].to_string()];
        expected.sort();
        assert_eq!(prefillers, expected, "{way}: cold prompts go to both");
        assert_eq!(stack.picker_metric("llm_d_epp_disagg_decision_total").await, Some(9.0), "{way}");
        assert_eq!(stack.picker_metric("p3sched_prefill_unavailable_total").await, Some(0.0), "{way}");
    }
}
