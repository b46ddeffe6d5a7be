//! `bounded-load-hash`: consistent hashing of the session or the prompt's head, with bounded loads.
//!
//! Endpoints are on a ring, 256 times each. A request starts at the place of its key (the session, else the first block
//! of its prompt) and goes on to the first endpoint with `r_e + 1 ≤ ⌈load_factor · (Σ r + 1) / n⌉`, r_e its requests in
//! flight.
//!
//! | parameter | default |
//! |---|---|
//! | `load_factor` | 1.25 |
//!
//! Source: Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2018); for LLMs
//! [KubeAI](https://github.com/kubeai-project/kubeai), `internal/loadbalancer/balance_chwbl.go`, with its defaults.

use p3sched::endpoint::Candidate;
use p3sched::picker::{Picker, TieRule};
use p3sched::profile::RequestView;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How often each endpoint is on the ring.
const REPLICATION: u64 = 256;

/// See the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub struct BoundedLoadHash {
    /// How many times the mean load an endpoint may have.
    pub load_factor: f64,
}

impl Picker for BoundedLoadHash {
    fn name(&self) -> &'static str {
        "bounded-load-hash"
    }

    fn pick(
        &self,
        request: &RequestView,
        candidates: &[Candidate],
        _totals: &[f32],
        _count: usize,
        ranking: &mut Vec<usize>,
    ) -> TieRule {
        let all: u64 = candidates.iter().map(|candidate| u64::from(candidate.requests_in_flight)).sum();
        let bound = (self.load_factor * (all + 1) as f64 / candidates.len() as f64).ceil();
        let has_room = |candidate: &Candidate| f64::from(candidate.requests_in_flight) + 1.0 <= bound;
        // The next place on the ring from the key on, of all endpoints that have room.
        let distance = |candidate: &Candidate| {
            let key = xxh3_64_with_seed(&request.affinity_key.to_le_bytes(), 0);
            let places =
                (0..REPLICATION).map(|copy| xxh3_64_with_seed(&candidate.name_hash.to_le_bytes(), copy + 1));
            places.map(|place| place.wrapping_sub(key)).min()
        };
        let free = candidates.iter().enumerate().filter(|(_, candidate)| has_room(candidate));
        let next = free.min_by_key(|(_, candidate)| distance(candidate));
        ranking.push(next.map_or(0, |(at, _)| at));
        TieRule::Unique
    }

    fn reads_totals(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::{candidates, pick, request};

    #[test]
    fn a_key_stays_until_its_endpoint_is_full() {
        let picker = BoundedLoadHash { load_factor: 1.25 };
        let mut endpoints = candidates(&[(0, 0), (0, 0), (0, 0)]);
        for (name_hash, endpoint) in (10..).zip(&mut endpoints) {
            endpoint.name_hash = name_hash;
        }
        let home = pick(&picker, &request(100), &endpoints);
        // 3 in flight of 8 and one more: ⌈1.25 · 9 / 3⌉ = 4 are allowed.
        let others: Vec<_> = (0..3).filter(|&at| at != home).collect();
        endpoints[home].requests_in_flight = 3;
        endpoints[others[0]].requests_in_flight = 3;
        endpoints[others[1]].requests_in_flight = 2;
        assert_eq!(pick(&picker, &request(100), &endpoints), home);
        endpoints[home].requests_in_flight = 4;
        endpoints[others[1]].requests_in_flight = 1;
        let next = pick(&picker, &request(100), &endpoints);
        assert_ne!(next, home);
        endpoints[next].requests_in_flight = 4;
        endpoints[3 - home - next].requests_in_flight = 0;
        assert_eq!(pick(&picker, &request(100), &endpoints), 3 - home - next);
    }

    #[test]
    fn keys_spread_evenly() {
        let picker = BoundedLoadHash { load_factor: 1.25 };
        let mut endpoints = candidates(&[(0, 0); 4]);
        for (name_hash, endpoint) in (10..).zip(&mut endpoints) {
            endpoint.name_hash = name_hash;
        }
        let mut counts = [0; 4];
        for key in 0..2_000 {
            let mut request = request(100);
            request.affinity_key = key;
            counts[pick(&picker, &request, &endpoints)] += 1;
        }
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }
}
