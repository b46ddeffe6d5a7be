use super::*;

const MILLISECOND: u64 = 1_000_000;
const PAGE: &[u8] = b"vllm:num_requests_waiting{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"0\"} 1\n";

fn router(settings: &str) -> Router {
    Router::new(Settings::read(settings.as_bytes()).unwrap(), || 0).unwrap()
}

fn two_endpoints(scrape: &str) -> (Router, Scraper) {
    let settings = format!(
        r#"{{"endpoints": ["10.0.0.1:8000", "[fd00::2]:8000"], "scrape": {{"cluster": "metrics", "period_seconds": 0.1{scrape}}}}}"#
    );
    let router = router(&settings);
    let scraper = Scraper::new(router.settings(), 0);
    (router, scraper)
}

fn destinations(calls: &[Call]) -> Vec<&str> {
    calls.iter().map(|call| call.destination.as_str()).collect()
}

#[test]
fn endpoints_take_turns_within_the_period() {
    let (router, mut scraper) = two_endpoints("");
    let due = |scraper: &mut Scraper, now: u64| scraper.due(router.settings(), now * MILLISECOND);
    let first = due(&mut scraper, 0);
    assert_eq!(destinations(&first), ["10.0.0.1:8000"]);
    assert_eq!((first[0].path.as_str(), first[0].timeout_milliseconds), ("/metrics", 2_000));
    assert_eq!(destinations(&due(&mut scraper, 49)), [""; 0]);
    assert_eq!(destinations(&due(&mut scraper, 50)), ["[fd00::2]:8000"]);
    assert!(due(&mut scraper, 100).is_empty(), "not while its last one is under way");
    scraper.replied(&first[0].purpose, Reply::Nothing, &router, 0);
    assert_eq!(destinations(&due(&mut scraper, 100)), ["10.0.0.1:8000"]);
}

#[test]
fn metrics_may_have_a_port_of_their_own() {
    let (router, mut scraper) = two_endpoints(r#", "port": 9090"#);
    let calls = scraper.due(router.settings(), 50 * MILLISECOND);
    assert_eq!(destinations(&calls), ["10.0.0.1:9090", "[fd00::2]:9090"]);
}

#[test]
fn a_call_is_known_by_its_number_once() {
    let (_, mut scraper) = two_endpoints("");
    scraper.called(7, Purpose::Hosts);
    assert_eq!(scraper.purpose_of(7), Some(Purpose::Hosts));
    assert_eq!(scraper.purpose_of(7), None);
}

#[test]
fn a_reply_says_what_it_says_of_the_engine() {
    let refused =
        b"upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";
    let broken =
        b"upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    let table: [(&str, &str, Reply<'_>, bool, bool); 8] = [
        ("a page", "", Reply::Answer { status: 200, body: PAGE }, true, true),
        ("no page", "", Reply::Answer { status: 200, body: b"\xff not metrics {" }, false, true),
        ("an error of the engine", "", Reply::Answer { status: 503, body: b"starting" }, false, true),
        ("nobody listens", "", Reply::Answer { status: 503, body: refused }, false, false),
        (
            "nobody listens at the metrics",
            r#", "port": 9"#,
            Reply::Answer { status: 503, body: refused },
            false,
            true,
        ),
        ("too slow", "", Reply::Answer { status: 504, body: b"upstream request timeout" }, false, true),
        ("a broken connection", "", Reply::Answer { status: 503, body: broken }, false, true),
        ("nothing", "", Reply::Nothing, false, true),
    ];
    for (case, scrape, reply, succeeds, reachable) in table {
        let (router, mut scraper) = two_endpoints(scrape);
        let purpose = Purpose::Metrics("10.0.0.1:8000".into());
        let report = scraper.replied(&purpose, reply, &router, 0);
        assert_eq!((report.succeeded, report.failed), (u64::from(succeeds), u64::from(!succeeds)), "{case}");
        assert_eq!(report.message.is_none(), succeeds, "{case}");
        let decision = router.scheduler().explain(&p3sched::Request::default(), 0).unwrap();
        let known = decision
            .explanation()
            .unwrap()
            .endpoints
            .iter()
            .find(|known| &*known.endpoint == "10.0.0.1:8000");
        assert_eq!(known.unwrap().dropped_by.is_none(), reachable, "{case}");
    }
}

#[test]
fn the_log_says_a_thing_once() {
    let (router, mut scraper) = two_endpoints("");
    let purpose = Purpose::Metrics("10.0.0.1:8000".into());
    let first = scraper.replied(&purpose, Reply::Nothing, &router, 0).message.unwrap();
    assert_eq!(first, "metrics of `10.0.0.1:8000` cannot be read, no answer");
    assert_eq!(scraper.replied(&purpose, Reply::Nothing, &router, 0).message, None);
}

#[test]
fn hosts_of_the_cluster_become_endpoints() {
    let router = router(
        r#"{"cluster": {"name": "pool", "admin_cluster": "admin"}, "scrape": {"cluster": "metrics"}}"#,
    );
    let mut scraper = Scraper::new(router.settings(), 0);
    let calls = scraper.due(router.settings(), 0);
    assert_eq!((calls.len(), calls[0].path.as_str()), (1, discovery::PATH));
    assert!(scraper.due(router.settings(), 10_000 * MILLISECOND).is_empty(), "not while it is under way");
    let page = |ports: &[u16]| {
        let host = |port: &u16| {
            format!(r#"{{"address": {{"socket_address": {{"address": "10.0.0.1", "port_value": {port}}}}}}}"#)
        };
        let hosts: Vec<_> = ports.iter().map(host).collect();
        format!(r#"{{"cluster_statuses": [{{"name": "pool", "host_statuses": [{}]}}]}}"#, hosts.join(","))
    };
    for (round, (ports, expected)) in (1..).zip([(&[1u16, 2][..], 2), (&[2, 3][..], 2), (&[][..], 0)]) {
        let body = page(ports);
        let reply = Reply::Answer { status: 200, body: body.as_bytes() };
        assert_eq!(scraper.replied(&Purpose::Hosts, reply, &router, 0), Report::default());
        assert_eq!(router.scheduler().stats(0).endpoints.len(), expected);
        let later = round * 10_000 * MILLISECOND;
        let due = scraper.due(router.settings(), later);
        assert_eq!(due.len(), expected + 1, "the endpoints' metrics and the hosts: {due:?}");
        for call in due {
            scraper.replied(&call.purpose, Reply::Nothing, &router, later);
        }
    }
}

#[test]
fn a_page_that_cannot_be_read_leaves_the_endpoints_as_they_were() {
    let router = router(r#"{"cluster": {"name": "pool", "admin_cluster": "admin"}}"#);
    let mut scraper = Scraper::new(router.settings(), 0);
    router.scheduler().add_endpoint(Endpoint::new("10.0.0.1:1")).unwrap();
    let reply = Reply::Answer { status: 200, body: b"{}" };
    let message = scraper.replied(&Purpose::Hosts, reply, &router, 0).message.unwrap();
    assert_eq!(message, "hosts of cluster `pool` stay as they were, no such cluster: `pool`");
    assert_eq!(router.scheduler().stats(0).endpoints.len(), 1);
}
