//! KV events: real captures against an oracle, the encodings, and what becomes of streams that have gaps or restart.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test reads files and fails by panicking"
)]

use std::collections::HashMap;
use std::path::Path;

use p3sched::kv_event::{BlocksRemoved, BlocksStored, EngineHash};
use p3sched::{
    Endpoint, Error, KvBatchOutcome, KvEvent, KvEventBatch, Prompt, Request, Scheduler, SchedulerConfig,
};

const SECOND: u64 = 1_000_000_000;

fn scheduler(endpoints: &[&str]) -> Scheduler {
    let mut config = SchedulerConfig::default();
    config.kv_events.model = "tiny".to_owned();
    let scheduler = Scheduler::new(config).unwrap();
    for &name in endpoints {
        scheduler.add_endpoint(Endpoint::new(name)).unwrap();
    }
    scheduler
}

fn request(model: &str, cache_salt: Option<&str>, tokens: &[u32]) -> Request {
    let mut request = Request::from_tokens(model, tokens);
    request.cache_salt = cache_salt.map(str::to_owned);
    request
}

/// What the only endpoint is known to hold of a prompt.
fn matched(scheduler: &Scheduler, request: &Request) -> u32 {
    scheduler.explain(request, 0).unwrap().matched_tokens
}

fn stored(hashes: &[u64], parent: Option<u64>, tokens: &[u32]) -> KvEvent {
    KvEvent::Stored(BlocksStored {
        block_hashes: hashes.iter().copied().map(EngineHash).collect(),
        parent: parent.map(EngineHash),
        token_ids: tokens.to_vec(),
        block_size: (tokens.len() / hashes.len()) as u32,
        ..BlocksStored::default()
    })
}

fn removed(hashes: &[u64]) -> KvEvent {
    let block_hashes = hashes.iter().copied().map(EngineHash).collect();
    KvEvent::Removed(BlocksRemoved { block_hashes, ..BlocksRemoved::default() })
}

fn batch(sequence: u64, timestamp: f64, events: Vec<KvEvent>) -> KvEventBatch {
    KvEventBatch { sequence, timestamp, rank: 0, events }
}

fn payload(line: &str) -> Option<(u64, Vec<u8>)> {
    let mut fields = line.split(' ').filter(|_| !line.starts_with('#')).skip(1);
    let sequence = u64::from_str_radix(fields.next()?, 16).unwrap();
    let hex = fields.next()?;
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    Some((sequence, bytes.collect()))
}

/// One engine's cache by the engine's own names: every block with all that leads to it.
#[derive(Default)]
struct Oracle {
    blocks: HashMap<EngineHash, Block>,
}

struct Block {
    parent: Option<EngineHash>,
    model: String,
    cache_salt: Option<String>,
    tokens: Vec<u32>,
}

impl Oracle {
    fn apply(&mut self, event: &KvEvent) {
        match event {
            KvEvent::Stored(event) => {
                let before = event.parent.map(|parent| &self.blocks[&parent]);
                let mut tokens = before.map_or_else(Vec::new, |before| before.tokens.clone());
                let model = event.adapter.clone().unwrap_or("tiny".to_owned());
                let model = before.map_or(model, |before| before.model.clone());
                let salt = before.map_or(event.cache_salt.clone(), |before| before.cache_salt.clone());
                let mut parent = event.parent;
                for (&name, block) in
                    event.block_hashes.iter().zip(event.token_ids.chunks(event.block_size as usize))
                {
                    tokens.extend(block);
                    let (model, tokens) = (model.clone(), tokens.clone());
                    self.blocks.insert(name, Block { parent, model, cache_salt: salt.clone(), tokens });
                    parent = Some(name);
                }
            }
            KvEvent::Removed(event) => {
                let mut gone = event.block_hashes.clone();
                while let Some(name) = gone.pop() {
                    self.blocks.remove(&name);
                    gone.extend(
                        self.blocks.iter().filter(|(_, b)| b.parent == Some(name)).map(|(&name, _)| name),
                    );
                }
            }
            KvEvent::Cleared => self.blocks.clear(),
            _ => unreachable!(),
        }
    }

    fn compare(&self, scheduler: &Scheduler, engine_block_tokens: usize) {
        let blocks = scheduler.stats(0).endpoints[0].index_blocks;
        assert_eq!(blocks, self.blocks.len() * engine_block_tokens / 16);
        for Block { model, cache_salt, tokens, .. } in self.blocks.values() {
            let mut prompt = tokens.clone();
            let known = matched(scheduler, &request(model, cache_salt.as_deref(), &prompt));
            assert_eq!(known as usize, tokens.len());
            let foreign = request(model, Some("of somebody else"), &prompt);
            assert_eq!(matched(scheduler, &foreign), 0, "salts are isolated");
            assert_eq!(matched(scheduler, &request("another model", cache_salt.as_deref(), &prompt)), 0);
            prompt[0] ^= 1 << 30;
            assert_eq!(matched(scheduler, &request(model, cache_salt.as_deref(), &prompt)), 0);
        }
    }
}

/// Replays a capture; returns how many engine blocks are left in the end.
fn replay(name: &str, engine_block_tokens: usize) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/kv-events").join(name);
    let scheduler = scheduler(&["engine"]);
    let mut oracle = Oracle::default();
    for (number, line) in std::fs::read_to_string(path).unwrap().lines().enumerate() {
        let Some((sequence, payload)) = payload(line) else { continue };
        let batch = KvEventBatch::decode(&payload, sequence).unwrap();
        let mut outcome = scheduler.apply_kv_batch("engine", &batch, 0).unwrap();
        if let KvBatchOutcome::Gap { expected } = outcome {
            assert!(
                expected == 0 && oracle.blocks.is_empty(),
                "only the beginning of a capture may be missing"
            );
            scheduler.resume_kv_events("engine", batch.rank, sequence).unwrap();
            outcome = scheduler.apply_kv_batch("engine", &batch, 0).unwrap();
        }
        assert_eq!(outcome, KvBatchOutcome::Applied);
        batch.events.iter().for_each(|event| oracle.apply(event));
        if number % 40 == 0 {
            oracle.compare(&scheduler, engine_block_tokens);
        }
    }
    oracle.compare(&scheduler, engine_block_tokens);
    scheduler.validate().unwrap();
    let counters = scheduler.stats(0).counters;
    assert_eq!((counters.skipped_kv_events, counters.orphaned_kv_events), (0, 0));
    oracle.blocks.len()
}

#[test]
fn every_capture_leaves_what_its_engine_held() {
    for (name, engine_block_tokens, blocks) in CAPTURES {
        assert_eq!(replay(name, *engine_block_tokens), *blocks, "{name}");
    }
}

/// Name, tokens per engine block, and blocks in the end as an independent decoder counts them.
const CAPTURES: &[(&str, usize, usize)] = &[
    ("sglang-0.5.23.txt", 16, 486),
    ("vllm-0.13.txt", 32, 245),
    ("vllm-0.32.txt", 32, 247),
    ("vllm-0.32-lora.txt", 32, 2),
    ("vllm-0.32-dp-rank0-sha256-cbor.txt", 32, 21),
    ("vllm-0.32-dp-rank1-sha256-cbor.txt", 32, 21),
];

#[test]
fn both_encodings_and_their_defaults() {
    let decode = |payload: &[u8]| KvEventBatch::decode(payload, 3).unwrap();
    let array = b"\x92\x01\x91\x95\xabBlockStored\x92\x07\xd3\xff\xff\xff\xff\xff\xff\xff\xfe\xc0\x94\x01\x02\x03\xcd\x01\x00\x02";
    let map = [
        &b"\x92\x01\x91\x87\xaablock_size\x02\xa4type\xabBlockStored\xa3new\x81\x01\x92\xc3\xd4\x01\x02"[..],
        b"\xacblock_hashes\x92\x07\xd3\xff\xff\xff\xff\xff\xff\xff\xfe\xa9token_ids\x94\x01\x02\x03\xcd\x01\x00",
        b"\xa6medium\xc0\xa7lora_id\xc0",
    ];
    let expected = batch(3, 1.0, vec![stored(&[7, u64::MAX - 1], None, &[1, 2, 3, 256])]);
    assert_eq!(decode(array), expected);
    assert_eq!(decode(&map.concat()), expected);
    let bytes = b"\x93\x01\x92\x92\xacBlockRemoved\x92\xc4\x02\x01\x00\xc4\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09\x91\xa3New\x05";
    let hashes = [256, xxhash_rust::xxh3::xxh3_64(&[1, 2, 3, 4, 5, 6, 7, 8, 9])];
    let expected = KvEventBatch { rank: 5, ..batch(3, 1.0, vec![removed(&hashes)]) };
    assert_eq!(decode(bytes), expected);
}

#[test]
fn extra_keys_are_adapter_media_and_salt() {
    let event = |keys: &[u8]| {
        let head = b"\x92\x01\x91\x84\xa4type\xabBlockStored\xacblock_hashes\x92\x07\x08\xa9lora_name\xa3law\xaaextra_keys";
        let batch = KvEventBatch::decode(&[&head[..], keys].concat(), 0).unwrap();
        let Some(KvEvent::Stored(event)) = batch.events.into_iter().next() else { panic!("one event") };
        (event.adapter, event.cache_salt, event.media.iter().map(|&media| media != 0).collect::<Vec<_>>())
    };
    let law = Some("law".to_owned());
    let salt = Some("s".to_owned());
    assert_eq!(event(b"\x92\x91\xa3law\x91\xa3law"), (law.clone(), None, vec![]));
    assert_eq!(event(b"\x92\x92\xa3law\xa1s\x91\xa3law"), (law.clone(), salt.clone(), vec![]));
    assert_eq!(event(b"\x92\x91\xa1s\xc0"), (law.clone(), salt.clone(), vec![]));
    assert_eq!(event(b"\x92\xc0\x91\x92\xa4hash\x00"), (law.clone(), None, vec![false, true]));
    assert_eq!(event(b"\x92\x93\xa3law\x92\xa4hash\x00\xa1s\xc0"), (law, salt, vec![true, false]));
}

#[test]
fn refusals_say_what_is_wrong() {
    for (payload, message) in [
        (&b""[..], "the payload ends too early"),
        (b"\xc1", "the payload is not MessagePack"),
        (b"\x80", "a batch must be an array"),
        (b"\x91\x01", "a batch must have two fields or more: `1`"),
        (b"\x92\x01\x05", "the events of a batch must be an array"),
        (b"\x92\x01\x91\x80", "an event must have a `type`"),
        (b"\x92\x01\x91\x90", "an event must be a map or an array that begins with its type"),
        (b"\x92\x01\x91\x92\xacBlockRemoved\x91\xc0", "`block_hashes` must not hold nil"),
        (
            b"\x92\x01\x91\x94\xabBlockStored\x90\xc0\x91\xff",
            "`token_ids` must be an integer from 0 to 4294967295",
        ),
        (b"\x92\x01\x91\x92\xacBlockRemoved\xdd\xff\xff\xff\xff", "the payload ends too early"),
        (b"\x92\x01\xdd\xff\xff\xff\xff", "the payload ends too early"),
    ] {
        let error = KvEventBatch::decode(payload, 0).unwrap_err();
        assert_eq!((error.code(), error), ("InvalidKvEvent", Error::InvalidKvEvent(message.to_owned())));
    }
    let scheduler = scheduler(&["a"]);
    let tokens: Vec<u32> = (0..48).collect();
    for (event, message) in [
        (stored(&[1, 2], None, &tokens), "block_size must be a multiple of block_size_tokens `16`: `24`"),
        (stored(&[1], None, &[]), "block_size must be a multiple of block_size_tokens `16`: `0`"),
    ] {
        let refusal = scheduler.apply_kv_event("a", &event, 0);
        assert_eq!(refusal, Err(Error::InvalidKvEvent(message.to_owned())));
    }
    let unknown = scheduler.apply_kv_event("b", &KvEvent::Cleared, 0);
    assert_eq!(unknown, Err(Error::UnknownEndpoint("b".to_owned())));
}

#[test]
fn truncated_payloads_are_refused_or_harmless() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/kv-events/vllm-0.32-lora.txt");
    let capture = std::fs::read_to_string(path).unwrap();
    let (sequence, payload) = capture.lines().find_map(payload).unwrap();
    // Without its last byte, the rank, a batch of three fields is incomplete.
    for length in 0..payload.len() {
        assert!(KvEventBatch::decode(&payload[..length], sequence).is_err(), "{length}");
    }
}

#[test]
fn gaps_are_reported_and_replays_fill_them() {
    let scheduler = scheduler(&["a"]);
    let tokens: Vec<u32> = (0..48).collect();
    let first = batch(0, 1.0, vec![stored(&[1], None, &tokens[..16])]);
    let second = batch(1, 2.0, vec![stored(&[2], Some(1), &tokens[16..32])]);
    let third = batch(2, 3.0, vec![stored(&[3], Some(2), &tokens[32..])]);
    let apply = |batch: &KvEventBatch| scheduler.apply_kv_batch("a", batch, 0).unwrap();
    let held = || matched(&scheduler, &request("tiny", None, &tokens));
    assert_eq!((apply(&first), held()), (KvBatchOutcome::Applied, 16));
    assert_eq!((apply(&third), held()), (KvBatchOutcome::Gap { expected: 1 }, 16));
    assert_eq!((apply(&first), held()), (KvBatchOutcome::Repeated, 16));
    assert_eq!((apply(&second), held()), (KvBatchOutcome::Applied, 32));
    assert_eq!((apply(&third), held()), (KvBatchOutcome::Applied, 48));
    assert_eq!((apply(&second), held()), (KvBatchOutcome::Repeated, 48));
    let counters = scheduler.stats(0).counters;
    assert_eq!((counters.kv_event_gaps, counters.kv_event_restarts, counters.kv_events), (1, 0, 3));

    let later = batch(9, 9.0, vec![stored(&[5], Some(3), &tokens[..16])]);
    assert_eq!((apply(&later), held()), (KvBatchOutcome::Gap { expected: 3 }, 48));
    scheduler.resume_kv_events("a", 0, 9).unwrap();
    assert_eq!((apply(&later), held()), (KvBatchOutcome::Applied, 0));
    assert_eq!(scheduler.stats(0).counters.orphaned_kv_events, 1);
}

#[test]
fn a_restarted_engine_begins_anew() {
    for (start, second_start) in [(100.0, 200.0), (0.0, 0.0)] {
        let scheduler = scheduler(&["a"]);
        let tokens: Vec<u32> = (0..32).collect();
        let apply = |batch: &KvEventBatch| scheduler.apply_kv_batch("a", batch, 0).unwrap();
        let held = || matched(&scheduler, &request("tiny", None, &tokens));
        apply(&batch(0, start, vec![stored(&[1, 2], None, &tokens)]));
        apply(&batch(1, start, vec![]));
        let restarted = batch(0, second_start, vec![stored(&[7], None, &tokens[..16])]);
        assert_eq!((apply(&restarted), held()), (KvBatchOutcome::Restarted, 16));
        assert_eq!(scheduler.stats(0).counters.kv_event_restarts, 1);
        if start > 0.0 {
            // The first batches of the next start were missed.
            assert_eq!(apply(&batch(1, 201.0, vec![])), KvBatchOutcome::Applied);
            let missed = batch(1, 300.0, vec![]);
            let text = Request::from_text("tiny", "a word ".repeat(100));
            scheduler.pick(&text, 0).unwrap();
            assert_eq!((apply(&missed), held()), (KvBatchOutcome::Gap { expected: 0 }, 0));
            assert_eq!(
                (apply(&missed), matched(&scheduler, &text)),
                (KvBatchOutcome::Gap { expected: 0 }, 0)
            );
            assert_eq!(scheduler.stats(0).counters.kv_event_restarts, 2);
        }
        scheduler.validate().unwrap();
    }
}

#[test]
fn an_engine_whose_cache_is_gone_holds_no_text_either() {
    let scheduler = scheduler(&["a"]);
    scheduler.apply_kv_batch("a", &batch(0, 1.0, vec![]), 0).unwrap();
    let text = Request::from_text("tiny", "a word ".repeat(100));
    for gone in [batch(1, 2.0, vec![KvEvent::Cleared]), batch(0, 3.0, vec![])] {
        scheduler.pick(&text, 0).unwrap();
        assert!(matched(&scheduler, &text) > 100);
        scheduler.apply_kv_batch("a", &gone, 0).unwrap();
        assert_eq!(matched(&scheduler, &text), 0);
    }
}

#[test]
fn the_first_event_ends_guesses_about_tokens_only() {
    let tokens: Vec<u32> = (0..64).collect();
    let as_tokens = request("tiny", None, &tokens);
    let text = Request::from_text("tiny", "a word ".repeat(100));
    let scheduler = scheduler(&["a"]);
    scheduler.pick(&text, 0).unwrap();
    scheduler.apply_kv_batch("a", &batch(0, 1.0, vec![]), 0).unwrap();
    assert!(matched(&scheduler, &text) > 100);

    scheduler.add_endpoint(Endpoint::new("b")).unwrap();
    scheduler.remove_endpoint("a").unwrap();
    scheduler.pick(&as_tokens, 0).unwrap();
    assert_eq!(matched(&scheduler, &as_tokens), 64);
    scheduler.apply_kv_batch("b", &batch(0, 1.0, vec![]), 0).unwrap();
    assert_eq!(matched(&scheduler, &as_tokens), 0);
}

#[test]
fn ranks_are_caches_of_their_own() {
    let scheduler = scheduler(&["a"]);
    let tokens: Vec<u32> = (0..32).collect();
    let on = |rank, sequence, events| {
        let batch = KvEventBatch { rank, ..batch(sequence, 1.0 + sequence as f64, events) };
        scheduler.apply_kv_batch("a", &batch, 0).unwrap()
    };
    on(0, 0, vec![stored(&[1, 2], None, &tokens)]);
    on(1, 0, vec![stored(&[1], None, &tokens[..16])]);
    let held = || matched(&scheduler, &request("tiny", None, &tokens));
    assert_eq!(held(), 32);
    on(0, 1, vec![KvEvent::Cleared]);
    assert_eq!(held(), 16);
    on(1, 1, vec![removed(&[2, 1])]);
    assert_eq!(held(), 0);
}

#[test]
fn picks_count_until_events_have_had_time_to_confirm_them() {
    let scheduler = scheduler(&["a"]);
    let tokens: Vec<u32> = (0..64).collect();
    let prompt = request("tiny", None, &tokens);
    let held = |now| scheduler.pick(&prompt, now).unwrap().matched_tokens;
    scheduler.apply_kv_event("a", &KvEvent::Cleared, 0).unwrap();
    assert_eq!(held(0), 0);
    assert_eq!(held(9 * SECOND), 64, "not confirmed, but young");
    assert_eq!(held(19 * SECOND), 0, "the second pick has expired too");
    assert_eq!(scheduler.stats(19 * SECOND).counters.unconfirmed_blocks, 8);
    let event = stored(&[1, 2, 3], None, &tokens[..48]);
    scheduler.apply_kv_event("a", &event, 20 * SECOND).unwrap();
    assert_eq!(held(40 * SECOND), 48, "three blocks are confirmed, the fourth was not");
    assert_eq!(scheduler.stats(0).counters.unconfirmed_blocks, 9);

    // Text is not compared with token ids, so events can neither confirm nor refute it.
    let text = Request::from_text("tiny", "x".repeat(640));
    assert!(matches!(text.prompt, Prompt::Bytes(_)));
    assert_eq!(scheduler.pick(&text, 50 * SECOND).unwrap().matched_tokens, 0);
    assert_eq!(scheduler.pick(&text, 500 * SECOND).unwrap().matched_tokens, 160);
}

#[test]
fn other_media_and_other_layers_are_left_out() {
    let scheduler = scheduler(&["a"]);
    let tokens: Vec<u32> = (0..16).collect();
    let held = || matched(&scheduler, &request("tiny", None, &tokens));
    let event = |medium: &str, group, attention: &str| {
        let KvEvent::Stored(event) = stored(&[1], None, &tokens) else { unreachable!() };
        let (medium, attention) = (Some(medium.to_owned()), Some(attention.to_owned()));
        KvEvent::Stored(BlocksStored { medium, group: Some(group), attention, ..event })
    };
    scheduler.apply_kv_event("a", &event("CPU", 0, "full_attention"), 0).unwrap();
    scheduler.apply_kv_event("a", &event("GPU", 0, "sliding_window"), 0).unwrap();
    assert_eq!(held(), 0);
    scheduler.apply_kv_event("a", &event("GPU", 1, "full_attention"), 0).unwrap();
    assert_eq!(held(), 16);
    // As engines tell of blocks that they offload.
    let KvEvent::Stored(offloaded) = event("CPU", 1, "full_attention") else { unreachable!() };
    let offloaded = BlocksStored { token_ids: Vec::new(), block_size: 0, ..offloaded };
    scheduler.apply_kv_event("a", &KvEvent::Stored(offloaded), 0).unwrap();
    assert_eq!(held(), 16);
    let elsewhere = |medium: &str, group| {
        let KvEvent::Removed(event) = removed(&[1]) else { unreachable!() };
        KvEvent::Removed(BlocksRemoved { medium: Some(medium.to_owned()), group: Some(group), ..event })
    };
    scheduler.apply_kv_event("a", &elsewhere("CPU", 1), 0).unwrap();
    scheduler.apply_kv_event("a", &elsewhere("GPU", 0), 0).unwrap();
    assert_eq!(held(), 16);
    scheduler.apply_kv_event("a", &elsewhere("GPU", 1), 0).unwrap();
    assert_eq!(held(), 0);
    assert_eq!(scheduler.stats(0).counters.skipped_kv_events, 5);
}

#[test]
fn a_removed_endpoint_leaves_nothing_behind() {
    let scheduler = scheduler(&["a", "b"]);
    let tokens: Vec<u32> = (0..320).collect();
    let names: Vec<u64> = (0..20).collect();
    for endpoint in ["a", "b"] {
        scheduler.apply_kv_event(endpoint, &stored(&names, None, &tokens), 0).unwrap();
    }
    assert_eq!(scheduler.stats(0).index.unique_blocks, 20);
    scheduler.remove_endpoint("a").unwrap();
    scheduler.add_endpoint(Endpoint::new("c")).unwrap();
    let decision = scheduler.pick(&request("tiny", None, &tokens), 0).unwrap();
    assert_eq!((&*decision.endpoint, decision.matched_tokens), ("b", 320));
    scheduler.remove_endpoint("b").unwrap();
    assert_eq!(scheduler.stats(0).index.unique_blocks, 0);
    scheduler.validate().unwrap();
}
