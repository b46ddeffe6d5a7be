//! What the picker changes in requests and answers, in every body mode that Envoy has.

use crate::stack::{Gateway, Stack, WAYS, addresses, chat_body, engines, folder, read, text};
use p3sched_examples::envoy::{Envoy, EnvoyConfig, EnvoyOptions, PickSource};
use p3sched_examples::picker::{Picker, PickerOptions};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// A path whose answer is what the engine saw, and that the picker takes for a chat's.
const ECHO: &str = "/simulator/echo/v1/chat/completions";
const DUPLEX: EnvoyConfig = EnvoyConfig::FullDuplexOverrideHost;

/// A picker with a configuration file.
async fn configured(test: &str, config: EnvoyConfig, source: PickSource, text: &str) -> Stack {
    Stack::start_with(test, config, |envoy, picker| {
        envoy.pick_source = source;
        picker.arguments = vec![format!("--config-text={text}")];
    })
    .await
}

/// Headers that an engine saw, from its answer on [`ECHO`].
fn seen_headers(body: &str) -> Vec<(String, String)> {
    let mut seen: Value = serde_json::from_str(body).unwrap();
    serde_json::from_value(seen.get_mut("headers").unwrap().take()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_is_spliced_into_the_bytes() {
    let rules =
        "{model_rewrites: [{name: alias, matches: [any-name-that-is-long], targets: [{model: simulated}]}]}";
    for (config, source) in WAYS {
        let stack = configured("rewrite", config, source, rules).await;
        let long = text("rewrite", 20_000);
        let body = |model: &str| {
            format!(
                r#"{{"n":12345678901234567890, "model" : "{model}","messages":[{{"role":"user","content":"{long}"}}]}}"#
            )
        };
        let answer = stack.post(ECHO, body("any-name-that-is-long")).await;
        let expected = body("simulated");
        assert_eq!(answer.status, 200, "{config:?}: {}", answer.body);
        assert_eq!(answer.header("x-body-bytes"), expected.len().to_string(), "{config:?}");
        assert_eq!(
            answer.header("x-body-hash"),
            format!("{:016x}", xxh3_64(expected.as_bytes())),
            "{config:?}"
        );
        let headers = seen_headers(&answer.body);
        let length = headers.iter().find(|(name, _)| name == "content-length");
        assert!(
            length.is_none_or(|(_, length)| *length == expected.len().to_string()),
            "{config:?}: {length:?}"
        );

        for stream in [false, true] {
            let mut request = chat_body("hello", stream);
            request["model"] = "any-name-that-is-long".into();
            let answer = stack.post("/v1/chat/completions", request.to_string()).await;
            assert_eq!(answer.status, 200, "{config:?}: {}", answer.body);
            // Where the picker does not see the answer it cannot change it.
            let named = if config == DUPLEX { "any-name-that-is-long" } else { "simulated" };
            assert!(answer.body.contains(&format!(r#""model":"{named}""#)), "{config:?}: {}", answer.body);
            assert!(config != DUPLEX || !answer.body.contains("simulated"), "{}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_must_not_say_reaches_no_engine() {
    let forged = [
        ("x-prefiller-host-port", "127.0.0.1:1"),
        ("x-gateway-destination-endpoint-served", "127.0.0.1:1"),
        ("x-gateway-destination-endpoint-subset", "127.0.0.1:1"),
        ("x-llm-d-inference-objective", "chat"),
        ("x-gateway-inference-fairness-id", "me"),
    ];
    for (config, source) in WAYS {
        let stack = Stack::start("stripped", config, source).await;
        let mut request = stack.request(ECHO).header("x-kept", "1");
        for (name, value) in forged {
            request = request.header(name, value);
        }
        let answer = read(request.body(chat_body("hello", false).to_string())).await;
        assert_eq!(answer.status, 200, "{config:?}: {}", answer.body);
        let seen = seen_headers(&answer.body);
        assert!(seen.iter().any(|(name, _)| name == "x-kept"), "{config:?}: {seen:?}");
        for (name, _) in forged {
            assert!(seen.iter().all(|(seen, _)| seen != name), "{config:?}: {name}");
        }
        assert_eq!(
            answer.headers.get_all("set-cookie").iter().count(),
            2,
            "{config:?}: each header stays one"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_refuse_with_their_status_and_reason() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = Stack::start_with("policies", config, |envoy, picker| {
            envoy.pick_source = source;
            // Without metrics every endpoint counts as saturated.
            picker.arguments = vec![
                "--config-text={objectives: {batch: -1}, models: [simulated]}".to_owned(),
                "--model-server-metrics-path=/nothing".to_owned(),
            ];
        })
        .await;
        let ask = async |objective: &str, model: &str| {
            let mut body = chat_body("hello", false);
            body["model"] = model.into();
            let request =
                stack.request("/v1/chat/completions").header("x-llm-d-inference-objective", objective);
            read(request.body(body.to_string())).await
        };
        assert_eq!(ask("chat", "simulated").await.status, 200, "{config:?}");
        let shed = ask("batch", "simulated").await;
        assert_eq!(
            (shed.status, shed.header("x-llm-d-request-dropped-reason")),
            (429, "rejected-saturated"),
            "{config:?}"
        );
        let unknown = ask("chat", "other").await;
        assert_eq!(unknown.status, 404, "{config:?}");
        assert!(unknown.body.starts_with("inference error: NotFound - "), "{}", unknown.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_mode_is_served_in_both_directions() {
    let options = EnvoyConfig::BufferedOverrideHost;
    for (request_mode, response_mode) in [
        ("BUFFERED_PARTIAL", "BUFFERED"),
        ("STREAMED", "STREAMED"),
        ("NONE", "BUFFERED_PARTIAL"),
        ("BUFFERED", "STREAMED"),
        ("BUFFERED", "FULL_DUPLEX_STREAMED"),
    ] {
        let folder = folder("body-modes");
        let engines = engines();
        let rules = "--config-text={model_rewrites: [{matches: [alias], targets: [{model: simulated}]}]}";
        let mut picker_options = PickerOptions::new(addresses(&engines));
        picker_options.arguments = vec![rules.to_owned()];
        let picker = Picker::start(&picker_options, &folder).await.unwrap();
        let options = EnvoyOptions::new(options, addresses(&engines), picker.grpc_addr());
        let written = |listen, admin| {
            let text = options.render(listen, admin)?;
            let text =
                text.replace("request_body_mode: BUFFERED", &format!("request_body_mode: {request_mode}"));
            let text = text.replace(
                "response_header_mode: SKIP",
                "response_header_mode: SEND\n                response_trailer_mode: SEND",
            );
            Ok(text.replace("response_body_mode: NONE", &format!("response_body_mode: {response_mode}")))
        };
        let envoy = Envoy::start_with(&options, &folder, written).await.unwrap();
        let stack = Stack { picker, gateway: Gateway::new(engines, envoy) };
        let way = format!("{request_mode} {response_mode}");
        for stream in [false, true] {
            let sees_body = request_mode.starts_with("BUFFERED");
            let mut body = chat_body(&text("modes", 3_000), stream);
            body["model"] = if sees_body { "alias" } else { "simulated" }.into();
            body["stream_options"] = serde_json::json!({"include_usage": true});
            let answer = stack.post("/v1/chat/completions", body.to_string()).await;
            assert_eq!(answer.status, 200, "{way}: {}", answer.body);
            let named = if sees_body { r#""model":"alias""# } else { r#""model":"simulated""# };
            assert!(answer.body.contains(named) && answer.body.contains("usage"), "{way}: {}", answer.body);
        }
        assert_eq!(stack.picker_metric("p3sched_completed_requests_total").await, Some(2.0), "{way}");
        assert_eq!(stack.picker_metric("llm_d_epp_request_output_tokens_count").await, Some(2.0), "{way}");
        assert_eq!(stack.picker_metric("llm_d_epp_request_running").await, Some(0.0), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_closed_with_the_pick_cuts_no_answer() {
    for (config, source) in [WAYS[0], WAYS[2]] {
        let stack = Stack::start_with("unwatched", config, |envoy, picker| {
            envoy.pick_source = source;
            picker.arguments = vec!["--watch-responses=false".to_owned()];
        })
        .await;
        for number in 0..20 {
            let body = chat_body(&text(&format!("unwatched {number}"), 2_000), number % 2 == 0);
            let answer = stack.post("/v1/chat/completions", body.to_string()).await;
            assert_eq!(answer.status, 200, "{config:?}: {}", answer.body);
            let end = if number % 2 == 0 { "data: [DONE]\n\n" } else { "}" };
            assert!(answer.body.ends_with(end), "{config:?}: {}", answer.body);
            let answer = stack.post(ECHO, text("bytes", 50_000)).await;
            assert_eq!((answer.status, answer.header("x-body-bytes")), (400, ""), "{config:?}: no JSON");
        }
        assert_eq!(stack.picker_metric("p3sched_completed_requests_total").await, Some(0.0), "{config:?}");
        assert_eq!(stack.picker_metric("llm_d_epp_extproc_streams_inflight").await, Some(0.0), "{config:?}");
    }
}
