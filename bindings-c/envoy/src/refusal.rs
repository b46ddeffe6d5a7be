//! A request that gets an answer from the filter instead of from an endpoint.

use p3sched::Error;

/// Value of the dropped-reason header when no endpoint can serve the request.
const NO_ENDPOINTS: &str = "rejected-no-endpoints";

/// What the client is told; the same words as `epp-server`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Name of the kind of refusal, as clients and dashboards know it.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
    /// Value of the dropped-reason response header.
    pub reason: Option<&'static str>,
}

impl Refusal {
    /// The body that the client sees.
    pub fn body(&self) -> String {
        format!("inference error: {} - {}", self.code, self.message)
    }

    /// 413: the request body is larger than the configured limit in bytes.
    pub fn payload_too_large(limit: u64) -> Self {
        Self::new(
            413,
            "PayloadTooLarge",
            format!("request body is larger than the limit of bytes: `{limit}`"),
        )
    }

    /// 500: this module has a mistake; Envoy's log says where.
    pub fn internal() -> Self {
        Self::new(500, "Internal", "internal error of the endpoint picker".to_owned())
    }

    /// 400 for a request that cannot be read, 503 when the scheduler has no answer.
    pub fn from_error(error: &Error) -> Self {
        match error {
            Error::InvalidRequest(message) => Self::new(400, "BadRequest", message.clone()),
            Error::NoEndpoints | Error::NoEligibleEndpoint { .. } => {
                Self { reason: Some(NO_ENDPOINTS), ..Self::new(503, "ServiceUnavailable", error.to_string()) }
            }
            _ => Self::new(503, "ServiceUnavailable", error.to_string()),
        }
    }

    fn new(status: u16, code: &'static str, message: String) -> Self {
        Self { status, code, message, reason: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_client_its_kind_and_its_reason() {
        let refusal = Refusal::from_error(&Error::NoEndpoints);
        assert_eq!((refusal.status, refusal.reason), (503, Some(NO_ENDPOINTS)));
        assert_eq!(
            refusal.body(),
            "inference error: ServiceUnavailable - no endpoints: add at least one before picking"
        );
        assert_eq!(Refusal::from_error(&Error::InvalidRequest("x".to_owned())).status, 400);
        assert_eq!(
            Refusal::payload_too_large(10).body(),
            "inference error: PayloadTooLarge - request body is larger than the limit of bytes: `10`"
        );
        assert_eq!(Refusal::internal().status, 500);
    }
}
