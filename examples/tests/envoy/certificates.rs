//! TLS between Envoy and the picker.

use crate::stack::{Stack, WAYS, chat_body, eventually, folder};
use std::path::Path;

const STREAMS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_rotated_without_a_dropped_stream() {
    let (config, source) = WAYS[0];
    let certificates = folder("rotated-certificate").join("certificates");
    std::fs::create_dir_all(&certificates).unwrap();
    write_certificate(&certificates);
    let mut stack = Stack::start_with("rotated-certificate", config, |envoy, picker| {
        (envoy.pick_source, envoy.picker_tls) = (source, true);
        picker.arguments = vec![
            "--secure-serving=true".to_owned(),
            "--enable-cert-reload=true".to_owned(),
            format!("--cert-path={}", certificates.display()),
        ];
    })
    .await;
    let mut open = Vec::new();
    for number in 0..STREAMS {
        let mut body = chat_body(&format!("stream {number}"), true);
        body["max_tokens"] = 6_000.into();
        let response = stack.request("/v1/chat/completions").body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        open.push(response);
    }
    write_certificate(&certificates);
    let log = stack.picker.process().log().to_owned();
    let is_reloaded = async || std::fs::read_to_string(&log).unwrap().contains("certificate reloaded");
    eventually("the certificate is reloaded", is_reloaded).await;
    assert_eq!(stack.picker_metric("llm_d_epp_extproc_streams_inflight").await, Some(STREAMS as f64));
    for number in 0..10 {
        assert_eq!(stack.chat(&format!("request {number}")).await.status, 200);
    }
    for response in open {
        assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"), "a stream was cut");
    }
    stack.assert_nothing_is_left("a rotation").await;
    assert_eq!(stack.picker_metric("p3sched_failed_requests_total").await, Some(0.0));
}

fn write_certificate(folder: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
}
