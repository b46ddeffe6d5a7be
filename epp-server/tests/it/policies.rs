//! What operators decide about requests, through the state machine: tables of messages and answers.

use epp_server::ext_proc::protocol::{BodyMode, BodyModes, Hints, Message};
use epp_server::ext_proc::router::RoutingSettings;
use epp_server::policies::{ModelRewrite, Policies, Target};
use p3sched::gateway::{RequestHead, ResponseHead};
use p3sched::{EndpointMetrics, SchedulerConfig};

use crate::stream::{
    BUFFERED, CHAT, DUPLEX, ENDPOINT, Exchange, SECOND, body, headers, mode, response_body, response_headers,
};
use crate::support;

fn rewrite(model: &str, targets: &[(&str, u32)]) -> ModelRewrite {
    let target = |&(model, weight): &(&str, u32)| Target { model: model.to_owned(), weight };
    ModelRewrite {
        name: "canary".to_owned(),
        matches: vec![model.to_owned()],
        targets: targets.iter().map(target).collect(),
        created: 0,
    }
}

fn with_head(change: impl FnOnce(&mut RequestHead)) -> Message {
    let mut head = RequestHead { path: "/v1/chat/completions".to_owned(), ..RequestHead::default() };
    change(&mut head);
    Message::RequestHeaders { head, end_of_stream: false }
}

/// Requests for `llama` become requests for `llama-8b`.
fn renaming(modes: BodyModes) -> Exchange {
    exchange(modes, |policies| policies.set_model_rewrites(vec![rewrite("llama", &[("llama-8b", 1)])]))
}

fn exchange(modes: BodyModes, decide: impl FnOnce(&Policies)) -> Exchange {
    let pool = support::pool(&[ENDPOINT]);
    decide(pool.policies());
    Exchange::on(pool, modes)
}

#[test]
fn another_model_is_written_into_the_bytes_and_nothing_else_changes() {
    let text = r#"{"n":12345678901234567890, "model" : "llama","messages":[]}"#;
    let renamed = r#"{"n":12345678901234567890, "model" : "llama-8b","messages":[]}"#;
    let length = renamed.len();
    let (first, rest) = text.split_at(45);
    let head = || with_head(|head| head.content_length = Some(text.len() as u64));
    let table = [
        (
            DUPLEX,
            vec![head(), body(text, true)],
            vec![
                format!("headers {ENDPOINT} content-length={length}"),
                r#"chunk {"n":12345678901234567890, "model" : "#.to_owned(),
                r#"chunk "llama-8b""#.to_owned(),
                r#"chunk ,"messages":[]} end"#.to_owned(),
            ],
        ),
        (
            BUFFERED,
            vec![head(), body(text, true)],
            vec!["headers -".to_owned(), format!("body {ENDPOINT} content-length={length} = {renamed}")],
        ),
        (
            mode(BodyMode::BufferedPartial),
            vec![headers(false), body(text, true)],
            vec!["headers -".to_owned(), format!("body {ENDPOINT} = {renamed}")],
        ),
    ];
    for (modes, messages, expected) in table {
        let mut exchange = renaming(modes);
        assert_eq!(exchange.send_all(messages), expected, "{modes:?}");
    }
    let mut split = renaming(DUPLEX);
    let answers = split.send_all(vec![headers(false), body(first, false), body(rest, true)]);
    let echoed: Vec<_> = answers.iter().filter_map(|answer| answer.strip_prefix("chunk ")).collect();
    assert_eq!(echoed.concat(), format!("{renamed} end"));
}

#[test]
fn a_rule_goes_before_the_client_and_shares_requests_out_by_weight() {
    let rule = || vec![rewrite("llama", &[("llama-8b", 9), ("llama-9b", 1)])];
    let pool = support::pool(&[ENDPOINT]);
    pool.policies().set_model_rewrites(rule());
    let mut counts = [0, 0];
    let router = support::router(&pool, RoutingSettings::default());
    let mut one = Exchange::over(pool, router, DUPLEX);
    for _ in 0..100 {
        one.stream = Exchange::new_stream();
        let answers = one.send_all(vec![
            with_head(|head| head.model_rewrite = Some("client-choice".to_owned())),
            body(CHAT, true),
        ]);
        let text = answers.concat();
        counts[0] += usize::from(text.contains("llama-8b"));
        counts[1] += usize::from(text.contains("llama-9b"));
    }
    assert!((89..=91).contains(&counts[0]) && counts[0] + counts[1] == 100, "{counts:?}");

    let mut sessions = std::collections::HashSet::new();
    for _ in 0..20 {
        one.stream = Exchange::new_stream();
        let head = with_head(|head| head.session = Some("me".to_owned()));
        sessions.insert(one.send_all(vec![head, body(CHAT, true)]));
    }
    assert_eq!(sessions.len(), 1, "a session stays with one model");

    let mut asked = exchange(DUPLEX, |_| {});
    let head = with_head(|head| head.model_rewrite = Some("client-choice".to_owned()));
    let answers = asked.send_all(vec![head, body(CHAT, true)]);
    assert!(answers.contains(&r#"chunk "client-choice""#.to_owned()), "{answers:?}");
    let page = asked.router.metrics().page().unwrap();
    let labels =
        r#"{model_name="llama",target_model_name="client-choice",fairness_id="default-flow",priority="0"}"#;
    assert!(page.contains(&format!("llm_d_epp_request_total{labels} 1\n")), "{page}");
}

#[test]
fn the_answer_names_the_model_that_the_client_named() {
    let answer = r#"{"model":"llama-8b","choices":[]}"#;
    let (first, rest) = answer.split_at(14);
    let streamed = BodyModes { request: BodyMode::FullDuplex, response: BodyMode::Streamed };
    for (modes, expected) in [
        (
            DUPLEX,
            vec![
                "response headers -content-length".to_owned(),
                "response chunk {".to_owned(),
                r#"response chunk "model":"llama","choices":[]}"#.to_owned(),
                "response trailers".to_owned(),
            ],
        ),
        (
            streamed,
            vec![
                "response headers -content-length".to_owned(),
                format!("response body = {first}"),
                format!("response body = {rest}"),
                "response trailers".to_owned(),
            ],
        ),
    ] {
        let mut exchange = renaming(modes);
        exchange.send_all(vec![headers(false), body(CHAT, true)]);
        let answers = exchange.send_all(vec![
            response_headers(200, true),
            response_body(first, false),
            response_body(rest, false),
            Message::ResponseTrailers,
        ]);
        assert_eq!(answers, expected, "{modes:?}");
    }
    let mut whole = renaming(BUFFERED);
    whole.send_all(vec![headers(false), body(CHAT, true)]);
    let answers = whole.send_all(vec![response_headers(200, false), response_body(answer, true)]);
    assert_eq!(answers[1], r#"response body = {"model":"llama","choices":[]}"#);

    let mut held = renaming(DUPLEX);
    held.send_all(vec![headers(false), body(CHAT, true), response_headers(200, true)]);
    let answers = held.send_all(vec![response_body("x\"mod", false), Message::ResponseTrailers]);
    assert_eq!(answers, ["response chunk x", "response chunk \"mod", "response trailers"]);
}

#[test]
fn a_compressed_answer_is_left_alone() {
    let mut exchange = renaming(DUPLEX);
    exchange.send_all(vec![headers(false), body(CHAT, true)]);
    let head = ResponseHead { status: 200, encoded: true, ..ResponseHead::default() };
    let answers = exchange.send_all(vec![
        Message::ResponseHeaders { head, end_of_stream: false },
        response_body(r#"{"model":"llama-8b"}"#, true),
    ]);
    assert_eq!(answers, ["response headers", r#"response chunk {"model":"llama-8b"} end"#]);
}

#[test]
fn a_model_that_is_not_listed_is_a_404_and_after_rewriting_it_may_be_another() {
    for (models, rules, expected) in [
        (&["llama"][..], vec![], "headers"),
        (&["phi"], vec![], "immediate 404 inference error: NotFound - "),
        (&["llama-8b"], vec![rewrite("llama", &[("llama-8b", 1)])], "headers"),
        (&["llama"], vec![rewrite("llama", &[("llama-8b", 1)])], "immediate 404"),
    ] {
        let mut exchange = exchange(DUPLEX, |policies| {
            policies.set_served_models(Some(models.iter().map(|&model| model.to_owned()).collect()));
            policies.set_model_rewrites(rules);
        });
        let answers = exchange.send_all(vec![headers(false), body(CHAT, true)]);
        assert!(answers[0].starts_with(expected), "{models:?}: {answers:?}");
    }
    let mut listed = exchange(DUPLEX, |policies| policies.set_served_models(Some(Vec::new())));
    assert_eq!(listed.send(headers(true)), [format!("headers {ENDPOINT}")], "no model is named here");
}

#[test]
fn negative_priorities_are_refused_while_the_endpoints_are_saturated() {
    for (waiting, objective, expected) in [
        (4.0, Some("batch"), "headers"),
        (5.0, Some("batch"), "immediate 429 inference error: InferencePoolResourceExhausted - "),
        (5.0, Some("chat"), "headers"),
        (5.0, Some("unknown"), "headers"),
        (5.0, None, "headers"),
    ] {
        let mut exchange = exchange(DUPLEX, |policies| {
            policies.set_objectives([("batch".to_owned(), -1), ("chat".to_owned(), 7)].into());
        });
        let metrics = EndpointMetrics::from_page(format!("vllm:num_requests_waiting {waiting}\n")).unwrap();
        exchange.pool.scheduler().observe(ENDPOINT, metrics, SECOND).unwrap();
        let head = with_head(|head| head.objective = objective.map(str::to_owned));
        let answers = exchange.send_all(vec![head, body(CHAT, true)]);
        assert!(answers[0].starts_with(expected), "{waiting} {objective:?}: {answers:?}");
        let page = exchange.router.metrics().page().unwrap();
        let counted = match objective {
            Some("chat") => {
                r#"llm_d_epp_request_total{model_name="llama",target_model_name="llama",fairness_id="default-flow",priority="7"} 1"#
            }
            Some("batch") if waiting > 4.0 => {
                r#"priority="-1",error_code="InferencePoolResourceExhausted"} 1"#
            }
            _ => "llm_d_epp_request_total",
        };
        assert!(page.contains(counted), "{objective:?}: {page}");
    }
}

#[test]
fn a_negative_priority_without_an_endpoint_is_told_that_there_is_none() {
    for (endpoints, subset) in [(&[ENDPOINT][..], Some(vec!["10.9.9.9".to_owned()])), (&[], None)] {
        let pool = support::pool(endpoints);
        pool.policies().set_objectives([("batch".to_owned(), -1)].into());
        let mut exchange = Exchange::on(pool, DUPLEX);
        let head = RequestHead { objective: Some("batch".to_owned()), ..RequestHead::default() };
        let headers = Message::RequestHeaders { head, end_of_stream: true };
        let answers = exchange.send_with(headers, Hints { subset, ..Hints::default() });
        assert!(answers[0].starts_with("immediate 503"), "{endpoints:?}: {answers:?}");
    }
}

#[test]
fn scores_are_told_and_subsets_ignored_where_that_is_wanted() {
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000"];
    let settings = RoutingSettings { emits_scores: true, obeys_subset: false, ..RoutingSettings::default() };
    let mut exchange = Exchange::with(support::pool(&endpoints), DUPLEX, settings);
    let hints = Hints { subset: Some(Vec::new()), ..Hints::default() };
    let answers = exchange.send_with(headers(true), hints);
    for endpoint in endpoints {
        assert!(answers[0].contains(&format!(" {endpoint}:2.0")), "queue and memory are equal: {answers:?}");
    }
}

#[test]
fn a_conformance_test_names_the_endpoints_and_learns_who_served() {
    let endpoints = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"];
    let settings = RoutingSettings { serves_tests: true, ..RoutingSettings::default() };
    for (selection, settings, expected) in [
        ("10.0.0.3, 10.0.0.1:8000", settings, "headers 10.0.0.3:8000,10.0.0.1:8000"),
        ("10.0.0.2:8000,10.0.0.2", settings, "headers 10.0.0.2:8000"),
        ("10.9.9.9", settings, "immediate 503"),
    ] {
        let mut exchange =
            Exchange::with(support::pool_with(SchedulerConfig::default(), &endpoints), DUPLEX, settings);
        let head = RequestHead { test_selection: Some(selection.to_owned()), ..RequestHead::default() };
        let answers = exchange.send(Message::RequestHeaders { head, end_of_stream: true });
        assert!(answers[0].starts_with(expected), "{selection}: {answers:?}");
        if expected.starts_with("headers") {
            let served = Hints { served_by: Some("10.0.0.3:8000".to_owned()), ..Hints::default() };
            let answers = exchange.send_with(response_headers(200, false), served);
            assert_eq!(answers, ["response headers x-conformance-test-served-endpoint=10.0.0.3:8000"]);
        }
    }
    let mut usual = Exchange::on(support::pool(&["10.0.0.1:8000"]), DUPLEX);
    let head = RequestHead { test_selection: Some("10.9.9.9".to_owned()), ..RequestHead::default() };
    assert_eq!(usual.send(Message::RequestHeaders { head, end_of_stream: true }), ["headers 10.0.0.1:8000"]);
}
