//! A name that is resolved again and again: by a name server that changes its mind, fails and lies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epp_server::discovery::Pool;
use epp_server::discovery::dns::{Dns, Pace};
use epp_server::health::Conditions;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use crate::support;

const SERVICE: &str = "llama.models.svc.cluster.local.";

/// What the name server says; `Err` is the code of its refusal.
type Zone = Result<Vec<(String, RData)>, ResponseCode>;

/// A name server whose zone can be changed, and the questions that it was asked.
#[derive(Clone)]
struct NameServer {
    zone: Arc<Mutex<Zone>>,
    questions: Arc<Mutex<usize>>,
    address: SocketAddr,
}

impl NameServer {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let server = Self { zone: Arc::new(Mutex::new(zone)), questions: Arc::default(), address };
        let answering = server.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = answering.answer(&Message::from_vec(&buffer[..length]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        server
    }

    fn answer(&self, question: &Message) -> Message {
        *self.questions.lock() += 1;
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        match &*self.zone.lock() {
            Err(code) => answer.metadata.response_code = *code,
            Ok(records) => {
                let of_name = records.iter().filter(|(name, _)| *name == query.name().to_ascii());
                let of_type = of_name.filter(|(_, data)| data.record_type() == query.query_type());
                answer.add_answers(
                    of_type.map(|(_, data)| Record::from_rdata(query.name().clone(), 0, data.clone())),
                );
                if query.query_type() == RecordType::SRV {
                    answer.add_additionals(records.iter().filter(|(name, _)| name.starts_with("glued")).map(
                        |(name, data)| Record::from_rdata(Name::from_ascii(name).unwrap(), 0, data.clone()),
                    ));
                }
            }
        }
        answer
    }

    fn now(&self, zone: Zone) {
        *self.zone.lock() = zone;
    }

    /// Waits until the name was resolved twice more, so once after what was changed.
    async fn asked_again(&self) {
        let before = *self.questions.lock();
        support::eventually("further questions", || *self.questions.lock() >= before + 8).await;
    }
}

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        std::net::IpAddr::V4(address) => RData::A(A(address)),
        std::net::IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn addresses(addresses: &[&str]) -> Zone {
    Ok(addresses.iter().map(|text| (SERVICE.to_owned(), address(text))).collect())
}

fn names(pool: &Pool) -> Vec<String> {
    pool.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect()
}

fn follow(name: &str, server: &NameServer, grace: Duration) -> Arc<Pool> {
    let pool = support::pool(&[]);
    let [shortest, longest] = [5, 20].map(Duration::from_millis);
    let dns =
        Dns::new(name.parse().unwrap(), Some(server.address), Pace { shortest, longest, grace }).unwrap();
    tokio::spawn(dns.follow(Arc::clone(&pool), Conditions::default().add()));
    pool
}

#[tokio::test]
async fn the_addresses_of_a_headless_service_are_the_endpoints() {
    let server = NameServer::start(addresses(&["10.0.0.2", "10.0.0.1"])).await;
    let pool = follow("llama.models.svc.cluster.local.:8000", &server, Duration::from_secs(60));
    support::eventually("two", || names(&pool) == ["10.0.0.1:8000", "10.0.0.2:8000"]).await;

    server.now(addresses(&["10.0.0.3", "10.0.0.2", "fd00::2", "fd00::3"]));
    support::eventually("a change", || names(&pool) == ["10.0.0.2:8000", "10.0.0.3:8000"]).await;

    for fault in
        [Err(ResponseCode::ServFail), Err(ResponseCode::Refused), Err(ResponseCode::NXDomain), Ok(vec![])]
    {
        server.now(fault);
        server.asked_again().await;
        assert_eq!(names(&pool), ["10.0.0.2:8000", "10.0.0.3:8000"]);
    }
    server.now(addresses(&["fd00::2"]));
    support::eventually("IPv6 alone", || names(&pool) == ["[fd00::2]:8000"]).await;
}

#[tokio::test]
async fn without_addresses_for_long_there_are_no_endpoints() {
    for empty in [Ok(vec![]), Err(ResponseCode::NXDomain)] {
        let server = NameServer::start(addresses(&["10.0.0.1"])).await;
        let pool = follow("llama.models.svc.cluster.local.:8000", &server, Duration::from_millis(50));
        support::eventually("one", || names(&pool) == ["10.0.0.1:8000"]).await;
        // A name server that fails says nothing of the pods, however long.
        server.now(Err(ResponseCode::ServFail));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(names(&pool), ["10.0.0.1:8000"]);
        server.now(empty);
        support::eventually("none", || names(&pool).is_empty()).await;
        server.now(addresses(&["10.0.0.1"]));
        support::eventually("one again", || names(&pool) == ["10.0.0.1:8000"]).await;
    }
}

#[tokio::test]
async fn services_have_their_own_ports() {
    let service = "_http._tcp.llama.models.svc.cluster.local.";
    let record = |priority, port, target: &str| {
        let service_record = SRV::new(priority, 1, port, Name::from_ascii(target).unwrap());
        (service.to_owned(), RData::SRV(service_record))
    };
    let server = NameServer::start(Ok(vec![
        record(0, 8000, "a.llama."),
        record(0, 8001, "a.llama."),
        record(0, 8002, "glued.llama."),
        record(0, 8003, "gone.llama."),
        record(9, 8004, "a.llama."),
        ("a.llama.".to_owned(), address("10.0.0.1")),
        ("glued.llama.".to_owned(), address("10.0.0.2")),
    ]))
    .await;
    let pool = follow(service, &server, Duration::from_secs(60));
    let expected = ["10.0.0.1:8000", "10.0.0.1:8001", "10.0.0.2:8002"];
    support::eventually("the services", || names(&pool) == expected).await;
}
