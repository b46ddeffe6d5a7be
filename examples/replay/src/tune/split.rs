//! What is tuned on, and what is kept back to check the result.

use crate::Error;
use crate::comparison::Input;
use crate::trace::Trace;

/// Share of a recording that is tuned on.
const TRAINING_SHARE: f64 = 0.6;

/// A trace with the seed under which it is replayed.
#[derive(Debug, Clone)]
pub(super) struct Episode {
    pub(super) trace: Trace,
    pub(super) seed: u64,
}

/// What is tuned on and what is kept back, without a request in common.
#[derive(Debug, Clone)]
pub(super) struct Split {
    pub(super) training: Vec<Episode>,
    pub(super) held_out: Vec<Episode>,
}

impl Split {
    /// A recording is cut in time, a workload made up under other seeds; `seeds` of each part.
    pub(super) fn new(input: &Input, seeds: u64) -> Result<Self, Error> {
        let episodes = |range: std::ops::Range<u64>, trace: &dyn Fn(u64) -> Trace| {
            range.map(|seed| Episode { trace: trace(seed), seed }).collect()
        };
        match input {
            Input::MadeUp(workload) => Ok(Self {
                training: episodes(0..seeds, &|seed| workload.generate(seed)),
                held_out: episodes(seeds..2 * seeds, &|seed| workload.generate(seed)),
            }),
            Input::Recorded(trace) => {
                let cut = (trace.requests.len() as f64 * TRAINING_SHARE) as usize;
                if cut == 0 || cut == trace.requests.len() {
                    let message =
                        format!("a trace to tune on must have more requests: `{}`", trace.requests.len());
                    return Err(Error::InvalidOption(message));
                }
                let (head, tail) = (part(trace, 0..cut), part(trace, cut..trace.requests.len()));
                Ok(Self {
                    training: episodes(0..seeds, &|_| head.clone()),
                    held_out: episodes(seeds..2 * seeds, &|_| tail.clone()),
                })
            }
        }
    }
}

/// The requests at these places, from the arrival of the first of them on.
fn part(trace: &Trace, range: std::ops::Range<usize>) -> Trace {
    let mut part = trace.clone();
    part.requests = trace.requests.get(range.clone()).unwrap_or_default().to_vec();
    let start = part.requests.first().map_or(0, |request| request.arrival);
    for request in &mut part.requests {
        request.arrival -= start;
        // What followed a request of the other part comes by itself.
        request.previous =
            request.previous.and_then(|at| (at as usize).checked_sub(range.start)).map(|at| at as u32);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    #[test]
    fn a_recording_is_cut_in_time() {
        let workload = Workload::parse("shared-prefix:conversations=50:turns=2").unwrap();
        let trace = workload.generate(1);
        let split = Split::new(&Input::Recorded(trace.clone()), 2).unwrap();
        let [head, tail] = [&split.training[0].trace, &split.held_out[0].trace];
        assert_eq!((head.requests.len(), tail.requests.len()), (60, 40));
        assert_eq!(tail.requests[0].arrival, 0);
        assert_eq!(tail.blocks_of(&tail.requests[3]), trace.blocks_of(&trace.requests[63]));
        for (at, request) in tail.requests.iter().enumerate() {
            let before = trace.requests[60 + at].previous.map(|before| before as usize);
            assert_eq!(
                request.previous.map(|before| before as usize + 60),
                before.filter(|before| *before >= 60)
            );
        }
        assert_ne!(split.training[0].seed, split.held_out[0].seed);
    }
}
