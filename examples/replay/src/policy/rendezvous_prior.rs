//! A prior on the prompt's head: what schedulers that do not know of each other agree on without a word.
//!
//! Score: 1 for the endpoint with the highest rendezvous hash of the session or the prompt's first block, else 0. Any
//! policy takes it as `rendezvous_prior=WEIGHT`. With a small weight it decides only where nothing else is known, so that
//! every scheduler sends a prefix that it has not seen to the same endpoint.
//!
//! Source: Thaler and Ravishankar, "A name-based mapping scheme for rendezvous" (1996).

use p3sched::endpoint::Candidate;
use p3sched::profile::RequestView;
use p3sched::scorer::Scorer;

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RendezvousPrior;

impl Scorer for RendezvousPrior {
    fn name(&self) -> &'static str {
        "rendezvous-prior"
    }

    fn score(&self, request: &RequestView, candidates: &[Candidate], out: &mut [f32]) {
        let hash = |candidate: &Candidate| candidate.rendezvous_hash(request.affinity_key);
        let highest = candidates.iter().map(hash).max();
        for (place, candidate) in out.iter_mut().zip(candidates) {
            *place = f32::from(Some(hash(candidate)) == highest);
        }
    }

    fn raw(&self, request: &RequestView, candidate: &Candidate) -> f32 {
        candidate.rendezvous_hash(request.affinity_key) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests_support::{candidates, request};

    #[test]
    fn one_endpoint_is_preferred_and_keys_spread() {
        let mut endpoints = candidates(&[(0, 0); 3]);
        for (name_hash, endpoint) in
            [0x9E37, 0x1234_5678_9ABC, 0xFEDC_BA98_7654_3210].into_iter().zip(&mut endpoints)
        {
            endpoint.name_hash = name_hash;
        }
        let mut preferred = [0; 3];
        for key in 0..300_u64 {
            let mut request = request(10);
            request.affinity_key = key.wrapping_mul(0xD6E8_FEB8_6659_FD93);
            let mut scores = [0.0; 3];
            RendezvousPrior.score(&request, &endpoints, &mut scores);
            assert_eq!(scores.iter().sum::<f32>(), 1.0);
            preferred.iter_mut().zip(scores).for_each(|(count, score)| *count += score as u32);
        }
        assert!(preferred.iter().all(|count| *count > 60), "{preferred:?}");
    }
}
