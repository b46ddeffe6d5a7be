//! When requests of negative priority are refused, as the `utilization-detector` has it.

use p3sched::scheduler::SaturationLimits;

use super::document::{Fault, Node};

/// Parameters of the detector, and of a `saturationDetector` section as earlier releases wrote it.
pub(super) const PARAMETERS: [&str; 6] = [
    "queueDepthThreshold",
    "kvCacheUtilThreshold",
    "metricsStalenessThreshold",
    "stalenessPolicy",
    "headroom",
    "inFlightLoadProducerName",
];

/// What a configuration says of saturation; the age from which metrics count for nothing may be left to the server.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct WrittenSaturation {
    /// The limits, with the default age where none is written.
    pub(crate) limits: SaturationLimits,
    /// Whether the age is written.
    pub(crate) has_age: bool,
}

/// Reads the parameters over what is there.
pub(super) fn read(
    parameters: &Node<'_>,
    written: &mut WrittenSaturation,
    notes: &mut Vec<String>,
) -> Result<(), Fault> {
    let limits = &mut written.limits;
    if let Some(threshold) = parameters.get("queueDepthThreshold") {
        limits.waiting_requests = threshold.number(1.0, 1e9)?;
    }
    if let Some(threshold) = parameters.get("kvCacheUtilThreshold") {
        limits.kv_cache_utilization = threshold.number(f64::MIN_POSITIVE, 1.0)?;
    }
    if let Some(threshold) = parameters.get("metricsStalenessThreshold") {
        let time = humantime::parse_duration(threshold.text()?).ok().filter(|time| !time.is_zero());
        limits.stale_seconds =
            time.ok_or_else(|| threshold.fault("must be a time above zero such as `200ms`"))?.as_secs_f64();
        written.has_age = true;
    }
    if let Some(policy) = parameters.get("stalenessPolicy") {
        limits.ignores_stale = match policy.text()? {
            "saturated" => false,
            "ignore" => true,
            _ => return Err(policy.fault("must be `saturated` or `ignore`")),
        };
    }
    if parameters.get("headroom").is_some() {
        notes.push(
            "`headroom` has no effect: the detector drops no endpoints here, the load gate does".to_owned(),
        );
    }
    Ok(())
}
