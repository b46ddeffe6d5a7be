//! What answers cost.

/// The price of a million answers, in the currency of `price_per_replica_hour`: what the replicas cost while they give
/// them, whether they are busy or not.
///
/// ```text
/// replicas · price per replica-hour / (3600 · requests per second) · 10⁶
/// ```
///
/// # Example
///
/// ```
/// use p3sched_replay::cost::per_million_requests;
///
/// // 8 replicas at 2.50 an hour cost 20 an hour, in which they give 36 000 answers.
/// assert_eq!(per_million_requests(8, 2.5, 10.0).round(), 556.0);
/// ```
pub fn per_million_requests(replicas: usize, price_per_replica_hour: f64, requests_per_second: f64) -> f64 {
    replicas as f64 * price_per_replica_hour / (3600.0 * requests_per_second) * 1e6
}
